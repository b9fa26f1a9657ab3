"""What a server of ours asks of the machine: a port, its processes, a clean environment."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from catchment.errors import ConfigError, SourceUnavailable

HOST = "127.0.0.1"
END_SECONDS = 60


def environment() -> dict[str, str]:
    """Ours without what would lead the server's programs elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def runs_in(pid: int, data: Path) -> bool:
    """Is this process a PostgreSQL of that cluster, and not one that was given a dead one's number?"""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if str(data) in process.cmdline():
            return True
        # Started by other means than ours: a server's working directory is its cluster. Root may be
        # refused the answer in a container, which is why the command line is asked first.
        return Path(process.cwd()).resolve() == data.resolve()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def is_alive(pid: int) -> bool:
    """Does this process live?"""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_for_the_end(pids: Sequence[int]) -> None:
    """Wait until none of these processes lives. Where nobody collects the dead they stay as zombies."""
    deadline = time.monotonic() + END_SECONDS
    for pid in pids:
        while is_alive(pid):
            if time.monotonic() > deadline:
                raise SourceUnavailable(f"Process {pid} of PostgreSQL does not end after SIGKILL.")
            time.sleep(0.01)


def is_free(port: int) -> bool:
    """Can a server listen there?"""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port below the range the system hands out itself, so that it is still free next time."""
    choice = random.SystemRandom()
    for _ in range(200):
        port = choice.randrange(20_000, 32_000)
        if is_free(port):
            return port
    raise ConfigError(f"No free port was found between 20000 and 32000 on {HOST}.")
