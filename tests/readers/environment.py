"""Where other people's readers live: `.cache/readers/`, never our own environment. `make readers` makes it.

Spark, Polars and a DuckDB with its Iceberg extension have pins of their own (requirements.txt, with hashes): the
extension fits one DuckDB only, and whoever installs Catchment needs none of them. Java 17 must be there already.
Installed: 1.2 GB.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
READERS = HERE.parent.parent / ".cache" / "readers"
INSTALL_SECONDS = 1200

RUNTIME = "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.11.0"
RUNTIME_SHA256 = "d6ea6c5d099288daeb7d5a92061bd3d7d8f296492632b42378e5f2f0e3066242"
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.7.1:copy"


class NoReadersError(Exception):
    """Readers cannot be had here; the message says why."""


@dataclass(frozen=True, slots=True)
class Readers:
    """What is installed. java: None when there is none, and so no Spark."""

    python: Path
    runtime: Path
    java: Path | None


def find() -> Readers:
    """What `make readers` has installed. Raises `NoReadersError` with what it failed on, or that it never ran."""
    place = _place()
    if not (place / "ready").exists():
        failure = place.with_suffix(".failed")
        raise NoReadersError(failure.read_text() if failure.exists() else "not installed: run make readers")
    java = shutil.which("java")
    return Readers(place / "bin" / "python", place / "runtime.jar", Path(java) if java else None)


def install() -> Readers:
    """Install what is not there yet. Raises `NoReadersError`, and keeps the reason for `find`."""
    place = _place()
    if not (place / "ready").exists():
        failure = place.with_suffix(".failed")
        failure.unlink(missing_ok=True)
        try:
            _make(place)
        except NoReadersError as error:
            failure.write_text(f"make readers failed: {error}")
            raise
    return find()


def _place() -> Path:
    pins = [(HERE / name).read_bytes() for name in ("build-requirements.txt", "requirements.txt")]
    digest = hashlib.sha256(b"\n".join([*pins, RUNTIME_SHA256.encode(), sys.version.encode()])).hexdigest()[:10]
    return READERS / digest


def _make(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    READERS.mkdir(parents=True, exist_ok=True)
    venv.create(place, with_pip=True)
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--require-hashes", "-r", str(HERE / "build-requirements.txt")])
    _run([*pip, "--require-hashes", "--no-build-isolation", "-r", str(HERE / "requirements.txt")])
    _fetch_runtime(place)
    (place / "ready").touch()


def _fetch_runtime(place: Path) -> None:
    """Iceberg's part for Spark, from Maven Central, if it is the file that we know."""
    if shutil.which("mvn") is None:
        raise NoReadersError("mvn is not on the PATH: it fetches Iceberg's runtime for Spark")
    downloads = place / "downloads"
    _run(["mvn", "--quiet", "--batch-mode", COPY, f"-Dartifact={RUNTIME}", f"-DoutputDirectory={downloads}"])
    (jar,) = downloads.glob("*.jar")
    found = hashlib.sha256(jar.read_bytes()).hexdigest()
    if found != RUNTIME_SHA256:
        raise NoReadersError(f"{jar.name} has the SHA-256 {found}, which is not the pinned one")
    jar.rename(place / "runtime.jar")


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise NoReadersError(f"{Path(command[0]).name} took longer than {INSTALL_SECONDS} s") from None
    if done.returncode != 0:
        words = (done.stderr + done.stdout).strip().splitlines()
        telling = [line for line in words if "error" in line.lower()] or words
        raise NoReadersError(f"{Path(command[0]).name}: {' / '.join(telling[:2])[:400]}")


def main() -> None:
    """For `make`: never fails, since the tests that need readers skip with the reason."""
    began = time.monotonic()
    try:
        place = install().python.parent.parent
    except NoReadersError as error:
        print(f"Readers of others are not installed, their tests will skip: {error}", file=sys.stderr)
    else:
        if (spent := time.monotonic() - began) > 1:
            print(f"Readers of others are in {place} ({spent:.0f} s)", file=sys.stderr)


if __name__ == "__main__":
    main()
