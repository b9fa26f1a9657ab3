"""A PostgreSQL server of our own, in a directory, ready for capture: no Docker, as root or not.

It listens on 127.0.0.1 and on a Unix socket and trusts whoever connects: for demos and tests only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote

from catchment.demo.account import Account, server_account
from catchment.demo.binaries import find_binaries, reachable_binaries, server_version
from catchment.demo.cluster import Cluster
from catchment.demo.host import HOST, environment, free_port, is_alive, is_free, wait_for_the_end
from catchment.errors import ConfigError, SourceUnavailable

SUPERUSER = "postgres"
PATIENCE_SECONDS = 60

SETTINGS: Mapping[str, str] = {
    "listen_addresses": HOST,
    "wal_level": "logical",
    "max_replication_slots": "32",
    "max_wal_senders": "32",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "log_min_messages": "warning",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
"""What every embedded server has, unless the caller says otherwise."""

NOT_DURABLE: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off"}
"""For tests that never pull the plug."""


class EmbeddedPostgres:
    """A PostgreSQL that lives in `directory` and, unless kept, ends with this process, however that ends.

    port: otherwise one is chosen and remembered in the directory. settings: added to `SETTINGS`, and
    written to the cluster at each start. version: a major version; bin_dir: its programs, found by default.

    `start` takes a server that already runs in the directory as it is; only who started it stops it.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        version: int = 18,
        bin_dir: Path | None = None,
    ) -> None:
        self.directory = Path(directory).resolve()
        self._asked_port = port
        self._settings = {**SETTINGS, **(settings or {})}
        self._found = bin_dir or find_binaries(version)
        self._bin = self._found
        self._account: Account = server_account()
        self._cluster = Cluster(self.directory, self._account)
        self._keeper: subprocess.Popen[bytes] | None = None
        self._ours = False
        self.moved_from: int | None = None
        """The remembered port, when something else had taken it and another was chosen."""

    # -- what it is --------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The port it listens on. Raises `ConfigError` before the first start."""
        port = self._cluster.port
        if port is None:
            raise ConfigError(f"No PostgreSQL was ever started in {self.directory}; start it first.")
        return port

    @property
    def version(self) -> str:
        """The server's own version, for people: `18.1`."""
        return server_version(self._found)

    @property
    def bin_dir(self) -> Path:
        """Where its programs (psql, pg_recvlogical, …) can be run from."""
        return self._found

    @property
    def socket_directory(self) -> Path:
        """Where its Unix socket is."""
        return self._cluster.sockets

    @property
    def log(self) -> Path:
        """What the server wrote about itself."""
        return self._cluster.log

    @property
    def data(self) -> Path:
        """The cluster's data directory."""
        return self._cluster.data

    @property
    def dsn(self) -> str:
        """Over TCP, to the database `postgres`."""
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        """Over TCP, to a database."""
        return f"postgresql://{SUPERUSER}@{HOST}:{self.port}/{quote(database, safe='')}"

    @property
    def unix_dsn(self) -> str:
        """Over the Unix socket, to the database `postgres`."""
        return self.unix_dsn_of("postgres")

    def unix_dsn_of(self, database: str) -> str:
        """Over the Unix socket, to a database."""
        host = quote(str(self.socket_directory), safe="")
        return f"postgresql://{SUPERUSER}@/{quote(database, safe='')}?host={host}&port={self.port}"

    @property
    def pid(self) -> int | None:
        """The server's process, when it runs."""
        return self._cluster.pid

    @property
    def running(self) -> bool:
        """Does it run, whoever started it?"""
        return self.pid is not None

    # -- life --------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *, keep: bool = False) -> Self:
        """Start it and wait until it takes connections; makes the cluster the first time.

        keep: let it run on when this process ends. Raises `ConfigError` when it cannot start.
        """
        self._bin = reachable_binaries(self._found, self._account)
        self._cluster.make()
        if self._adopted():
            return self
        self._release_keeper()  # of a server that died by itself
        if self._cluster.version is None:
            self._initialise()
        self._check_version()
        self._cluster.remove_locks()
        self._start_on_a_port()
        self._ours = True
        self._cluster.owner = None if keep else os.getpid()
        if not keep:
            self._keeper = self._start_keeper()
        return self

    def stop(self, mode: str = "fast") -> None:
        """Stop it, if we started it, and wait until it is gone. mode: smart, fast or immediate."""
        if self._ours and self.running:
            self._control("stop", "-m", mode, "-w", "-t", str(PATIENCE_SECONDS))
        self._ours = False
        self._release_keeper()

    def shut_down(self, mode: str = "fast") -> None:
        """Stop it whoever started it."""
        self._bin = reachable_binaries(self._found, self._account)
        self._ours = True
        self.stop(mode)

    def restart(self, mode: str = "fast") -> None:
        """Stop and start again on the same port: connections break, data stay."""
        kept = self._keeper is None
        self.stop(mode)
        self.start(keep=kept)

    def kill(self) -> None:
        """SIGKILL the server and all its processes at once, as a power cut of the machine would."""
        import psutil

        pid = self.pid
        if pid is None:
            return
        server = psutil.Process(pid)
        processes = [server, *server.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        wait_for_the_end([process.pid for process in processes])
        self._release_keeper()

    # -- starting ----------------------------------------------------------------------------------

    def _adopted(self) -> bool:
        """Does a server run here already? One that is starting or stopping is waited for."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.running:
            if self._cluster.owner is not None and not is_alive(self._cluster.owner):
                # Its process was killed, and it is about to be stopped for that: not one to rely on.
                with suppress(ConfigError):
                    self._control("stop", "-m", "fast", "-w", "-t", str(PATIENCE_SECONDS))
            elif (port := self._cluster.ready_on) is not None:
                self._cluster.port = port
                return True
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"A PostgreSQL has been starting or stopping in {self.directory} for {PATIENCE_SECONDS} "
                    f"seconds; see {self.log}."
                )
            time.sleep(0.05)
        return False

    def _initialise(self) -> None:
        self._run(
            "initdb",
            *("--pgdata", str(self.data), "--username", SUPERUSER, "--auth", "trust"),
            *("--encoding", "UTF8", "--locale", "C", "--no-sync"),
        )
        with (self.data / "postgresql.conf").open("a") as config:
            config.write("include_if_exists = 'catchment.conf'\n")

    def _check_version(self) -> None:
        server = self.version.split(".", maxsplit=1)[0]
        if self._cluster.version != server:
            raise ConfigError(
                f"The cluster in {self.directory} is PostgreSQL {self._cluster.version}, the server is {server}. "
                "Start it with that version, or choose another directory."
            )

    def _start_on_a_port(self) -> None:
        remembered = self._cluster.port
        wanted = self._asked_port or remembered
        for _ in range(5):
            port = wanted if wanted is not None and is_free(wanted) else None
            if port is None:
                if self._asked_port is not None:
                    raise ConfigError(
                        f"Port {self._asked_port} on {HOST} is taken by another program; choose another port."
                    )
                port = free_port()
            if self._started(port):
                self.moved_from = remembered if remembered not in (None, port) else None
                return
            wanted = None
        raise ConfigError(f"PostgreSQL did not start in {self.directory}: {self._cluster.last_words()}")

    def _started(self, port: int) -> bool:
        """Start on this port; False when another program was quicker to take it."""
        self._cluster.port = port
        sockets = {"port": str(port), "unix_socket_directories": str(self.socket_directory)}
        self._cluster.write_settings({**self._settings, **sockets})
        written = self.log.stat().st_size if self.log.exists() else 0
        try:
            self._control("start", "-w", "-t", str(PATIENCE_SECONDS), "-l", str(self.log))
        except ConfigError:
            words = self._cluster.last_words(written)
            if "already in use" in words:
                return False
            raise ConfigError(f"PostgreSQL did not start in {self.directory}: {words} See {self.log}.") from None
        return True

    # -- programs ----------------------------------------------------------------------------------

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", str(self.data), "-s", *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        # Files, not pipes: the server inherits them and would hold a pipe open for ever. Its own session,
        # so that Ctrl-C at a terminal reaches us and not the server, which we stop in order.
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(
                [self._bin / program, *arguments],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd="/",
                env=environment(),
                start_new_session=True,
                **self._account.options(),
            )
            said.seek(0)
            words = said.read().decode(errors="replace").strip()
        if done.returncode != 0:
            raise ConfigError(f"{program} failed in {self.directory}: {words or f'exit code {done.returncode}'}")

    def _start_keeper(self) -> subprocess.Popen[bytes]:
        """A shell that waits for the end of this process, however it ends, and then stops the server.

        It holds the other end of a pipe: a line means that all is well and it may go; the end of the
        pipe means that we are gone.
        """
        script = 'read -r line && exit 0; exec "$0" -D "$1" -s -m fast stop >/dev/null 2>&1'
        return subprocess.Popen(
            ["/bin/sh", "-c", script, self._bin / "pg_ctl", self.data],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=environment(),
            start_new_session=True,
            **self._account.options(),
        )

    def _release_keeper(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is None or keeper.stdin is None:
            return
        with suppress(BrokenPipeError):
            keeper.stdin.write(b"released\n")
            keeper.stdin.close()
        try:
            keeper.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise SourceUnavailable(f"The keeper of the server in {self.directory} does not end.") from None
