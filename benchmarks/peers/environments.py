"""Where peers live: `.cache/peers/`, never our own environment. Versions are pinned; an install is kept."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from benchmarks.server import CACHE

PEERS = CACHE / "peers"
HERE = Path(__file__).parent
INSTALL_SECONDS = 1200


class CannotInstallError(Exception):
    """A peer cannot be had here; the message says why."""


def python_environment(name: str, requirements: Sequence[str], *, without_dependencies: Sequence[str] = ()) -> Path:
    """The Python of an environment with these packages, made at the first use."""
    pins = [*requirements, *without_dependencies]
    directory = PEERS / f"{name}-{_digest(*pins, sys.version)}"
    python = directory / "bin" / "python"
    ready = directory / "ready"
    if ready.exists():
        return python
    shutil.rmtree(directory, ignore_errors=True)
    venv.create(directory, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _install([*pip, *requirements])
    if without_dependencies:
        _install([*pip, "--no-deps", *without_dependencies])
    ready.touch()
    return python


def java_classes(name: str, pom: Path, source: Path) -> str:
    """The class path of a compiled Java program with its libraries from Maven Central."""
    for program in ("java", "javac", "mvn"):
        if shutil.which(program) is None:
            raise CannotInstallError(f"{program} is not on the PATH (Debezium needs Java 17 and Maven)")
    directory = PEERS / f"{name}-{_digest(pom.read_text(), source.read_text())}"
    libraries, classes, ready = directory / "lib", directory / "classes", directory / "ready"
    classpath = f"{classes}:{libraries}/*"
    if ready.exists():
        return classpath
    shutil.rmtree(directory, ignore_errors=True)
    classes.mkdir(parents=True)
    goal = "org.apache.maven.plugins:maven-dependency-plugin:3.7.1:copy-dependencies"
    _install(["mvn", "--quiet", "--batch-mode", "--file", str(pom), goal, f"-DoutputDirectory={libraries}"])
    _install(["javac", "-d", str(classes), "-cp", f"{libraries}/*", str(source)])
    ready.touch()
    return classpath


def _install(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise CannotInstallError(f"{Path(command[0]).name} took longer than {INSTALL_SECONDS} s") from None
    if done.returncode != 0:
        words = (done.stderr + done.stdout).strip().splitlines()
        telling = [line for line in words if "ERROR" in line or "error:" in line] or words
        raise CannotInstallError(f"{Path(command[0]).name}: {' / '.join(telling[:2])[:400]}")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:10]
