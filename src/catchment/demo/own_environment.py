"""A Python environment for a program that cannot live in ours: made once, from pins with hashes, then reused."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from catchment.errors import ConfigError

INSTALL_SECONDS = 900


def user_cache() -> Path:
    """Where we keep what can be made again: `$XDG_CACHE_HOME/catchment`, usually `~/.cache/catchment`."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "catchment"


def say(line: str) -> None:
    """Progress, for people: stdout is kept for results."""
    print(line, file=sys.stderr, flush=True)


class OwnEnvironment:
    """A virtual environment with exactly what a requirements file pins.

    Its directory's name has a digest of the pins and of our Python's version: other pins are another environment,
    and one that is being used is never changed.
    """

    def __init__(self, name: str, requirements: Path, *, cache: Path | None = None) -> None:
        self.name = name
        self._requirements = requirements
        pins = requirements.read_bytes() + sys.version.encode()
        self.directory = (cache or user_cache()) / f"{name.lower()}-{hashlib.sha256(pins).hexdigest()[:10]}"

    @property
    def python(self) -> Path:
        """Its interpreter, which is there once `make` has returned."""
        return self.directory / "bin" / "python"

    @property
    def made(self) -> bool:
        """Is it there, whole?"""
        return is_made(self.directory)

    def make(self, tell: Callable[[str], None] = say) -> Path:
        """Make it if it is not there, and return its interpreter.

        Of several processes one makes it while the others wait. One that was killed half-way leaves nothing that
        is used: the next starts over. Raises `ConfigError` with pip's reason, mostly that no package index answers.
        """
        make_once(self.name, self.directory, self._make, tell)
        return self.python

    def _make(self) -> None:
        run(self.name, [sys.executable, "-m", "venv", str(self.directory)])
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        run(self.name, [*pip, "--require-hashes", "--only-binary", ":all:", "-r", str(self._requirements)])


def is_made(directory: Path) -> bool:
    """Did `make_once` make it, whole?"""
    return (directory / "ready").exists()


def make_once(name: str, directory: Path, make: Callable[[], None], tell: Callable[[str], None] = say) -> None:
    """Make a directory by `make`, if it is not there whole. Raises `ConfigError` when it cannot be written."""
    if is_made(directory):
        return
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with _alone(name, directory, tell):
            if not is_made(directory):
                tell(f"Installing {name} into {directory}, once …")
                shutil.rmtree(directory, ignore_errors=True)  # what a killed process left
                make()
                (directory / "ready").touch()
    except OSError as error:
        raise ConfigError(
            f"{name} could not be installed into {directory}: {error.strerror}. "
            "Set XDG_CACHE_HOME to a directory that can be written."
        ) from None


def run(name: str, command: Sequence[str], directory: Path | None = None) -> None:
    """Run an installer's command. Raises `ConfigError` with its reason."""
    kept = {variable: value for variable, value in os.environ.items() if not variable.startswith("PYTHON")}
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=INSTALL_SECONDS, env=kept, cwd=directory
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{name} could not be installed in {INSTALL_SECONDS} seconds; try again.") from None
    if done.returncode != 0:
        words = (done.stderr + done.stdout).strip().splitlines()
        telling = [line for line in words if "error" in line.lower()] or words
        raise ConfigError(
            f"{name} could not be installed: {' / '.join(telling[-2:])[:500]} "
            "It needs a package index that can be reached, this first time only."
        )


@contextmanager
def _alone(name: str, directory: Path, tell: Callable[[str], None]) -> Iterator[None]:
    with directory.with_name(f"{directory.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"Another process installs {name}; waiting for it …")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
