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
        return self._ready.exists()

    def make(self, tell: Callable[[str], None] = say) -> Path:
        """Make it if it is not there, and return its interpreter.

        Of several processes one makes it while the others wait. One that was killed half-way leaves nothing that
        is used: the next starts over. Raises `ConfigError` with pip's reason, mostly that no package index answers.
        """
        if self.made:
            return self.python
        try:
            self.directory.parent.mkdir(parents=True, exist_ok=True)
            with self._alone(tell):
                if not self.made:
                    tell(f"Installing {self.name} into {self.directory}, once …")
                    self._make()
        except OSError as error:
            raise ConfigError(
                f"{self.name} could not be installed into {self.directory}: {error.strerror}. "
                "Set XDG_CACHE_HOME to a directory that can be written."
            ) from None
        return self.python

    @property
    def _ready(self) -> Path:
        return self.directory / "ready"

    @contextmanager
    def _alone(self, tell: Callable[[str], None]) -> Iterator[None]:
        with self.directory.with_name(f"{self.directory.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell(f"Another process installs {self.name}; waiting for it …")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)  # what a killed process left
        self._run([sys.executable, "-m", "venv", str(self.directory)])
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        self._run([*pip, "--require-hashes", "--only-binary", ":all:", "-r", str(self._requirements)])
        self._ready.touch()

    def _run(self, command: Sequence[str]) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        try:
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=INSTALL_SECONDS, env=kept
            )
        except subprocess.TimeoutExpired:
            raise ConfigError(f"{self.name} could not be installed in {INSTALL_SECONDS} seconds; try again.") from None
        if done.returncode != 0:
            words = (done.stderr + done.stdout).strip().splitlines()
            telling = [line for line in words if "error" in line.lower()] or words
            raise ConfigError(
                f"{self.name} could not be installed: {' / '.join(telling[-2:])[:500]} "
                "It needs a package index that pip can reach, this first time only."
            )
