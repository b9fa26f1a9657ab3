"""The directory of an embedded server: where its files are, who owns them, what it wrote there.

::

    directory/          what the caller names
      port              chosen once, so that the DSN stays the same
      owner             the process it ends with
      data/             the cluster; a link to /var/tmp when the server's account cannot enter `directory`
      log               what the server says
      .s.PGSQL.<port>   the Unix socket; elsewhere when the path is too long for one
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from catchment.demo.account import Account
from catchment.demo.binaries import spare_directory
from catchment.demo.host import runs_in
from catchment.errors import ConfigError

LONGEST_SOCKET_PATH = 100
READY = "ready"


class Cluster:
    """The files of one server."""

    def __init__(self, directory: Path, account: Account) -> None:
        self.directory = directory
        self._account = account

    @property
    def home(self) -> Path:
        """Where the server's files really are."""
        link = self.directory / "data"
        return link.resolve().parent if link.is_symlink() else self.directory

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.home / "data"

    @property
    def log(self) -> Path:
        """What the server wrote about itself."""
        return self.home / "log"

    @property
    def sockets(self) -> Path:
        """Where its Unix socket is."""
        if len(str(self.home / ".s.PGSQL.65535")) <= LONGEST_SOCKET_PATH:
            return self.home
        name = hashlib.sha256(str(self.home).encode()).hexdigest()[:12]
        return spare_directory() / f"catchment-socket-{name}"

    @property
    def port(self) -> int | None:
        """The port that was chosen for it."""
        return _number(self.directory / "port")

    @port.setter
    def port(self, port: int) -> None:
        (self.directory / "port").write_text(f"{port}\n")

    @property
    def owner(self) -> int | None:
        """The process that the server ends with; None when it was left to run by itself."""
        return _number(self.directory / "owner")

    @owner.setter
    def owner(self, process: int | None) -> None:
        if process is None:
            (self.directory / "owner").unlink(missing_ok=True)
        else:
            (self.directory / "owner").write_text(f"{process}\n")

    @property
    def pid(self) -> int | None:
        """The server's process, when it lives."""
        pid = _number(self.data / "postmaster.pid")
        return pid if pid is not None and runs_in(pid, self.data) else None

    @property
    def ready_on(self) -> int | None:
        """The port on which a server takes connections here, if one does."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return int(lines[3]) if len(lines) >= 8 and lines[7].strip() == READY else None

    @property
    def version(self) -> str | None:
        """The major version that made the data directory; None when nothing made it yet."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return (self.data / "PG_VERSION").read_text().strip()
        return None

    def make(self) -> None:
        """Make the directories, owned by the server's account. Raises `ConfigError` when that cannot be."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{self.directory} cannot be made: {error.strerror}. Choose another directory for the demo."
            ) from error
        link = self.directory / "data"
        if link.is_symlink() and not link.resolve().parent.exists():
            raise ConfigError(
                f"{link} points to {link.resolve()}, which is gone. The database in it is lost: remove "
                f"{self.directory} and what was captured from it, and start again."
            )
        if not link.exists() and not link.is_symlink():
            if not any(self.directory.iterdir()):
                self._account.own(self.directory)
            if not self._account.can("w", self.directory):
                self._move_out()
            self.data.mkdir(mode=0o700, exist_ok=True)
        for path in (self.home, self.data):
            self._account.own(path)
        if self.sockets != self.home:
            self.sockets.mkdir(mode=0o755, exist_ok=True)
            self._account.own(self.sockets)

    def write_settings(self, settings: Mapping[str, str]) -> None:
        """Write what the server reads at its next start."""
        path = self.data / "catchment.conf"
        path.write_text(
            "".join(f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in settings.items())
        )
        self._account.own(path)

    def remove_locks(self) -> None:
        """Remove the locks of a server that is dead: PostgreSQL itself believes any living process number."""
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        for path in self.sockets.glob(".s.PGSQL.*"):
            path.unlink(missing_ok=True)

    def last_words(self, after: int = 0) -> str:
        """The most telling lines at the end of the log, from this offset on."""
        try:
            with self.log.open(errors="replace") as log:
                log.seek(after)
                lines = log.read().splitlines()
        except FileNotFoundError:
            return "it wrote no log."
        telling = [line for line in lines if any(word in line for word in ("FATAL", "PANIC", "HINT", "already in use"))]
        return " / ".join((telling or lines)[-3:])

    def _move_out(self) -> None:
        """Put the cluster where the borrowed account can reach it, and leave a link to it here."""
        if not self._account.borrowed:
            raise ConfigError(f"PostgreSQL cannot write to {self.directory}; choose another directory.")
        _remove_orphans(spare_directory(), self._account)
        home = Path(tempfile.mkdtemp(prefix="catchment-cluster-", dir=spare_directory()))
        home.chmod(0o755)
        (home / "belongs_to").write_text(f"{self.directory}\n")
        (self.directory / "data").symlink_to(home / "data")


def _number(path: Path) -> int | None:
    """The number on a file's first line."""
    try:
        return int(path.read_text().splitlines()[0])
    except (FileNotFoundError, NotADirectoryError, IndexError, ValueError):
        return None


def _remove_orphans(spare: Path, account: Account) -> None:
    """Remove clusters that were moved out of directories which do not point to them any more."""
    for note in spare.glob("catchment-cluster-*/belongs_to"):
        home = note.parent
        with suppress(OSError):
            if home.stat().st_uid not in (os.geteuid(), account.uid):
                continue
            link = Path(note.read_text().strip()) / "data"
            if link.is_symlink() and link.readlink() == home / "data":
                continue
            if (home / "data" / "postmaster.pid").exists():
                continue
            shutil.rmtree(home)
