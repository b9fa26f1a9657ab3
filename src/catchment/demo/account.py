"""The account that a server runs as: PostgreSQL refuses to run as root.

As a normal user everything runs as that user. As root, an account that exists already is borrowed; none
is created, and no permission of a directory that is not ours is changed.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from catchment.errors import ConfigError

CANDIDATES = ("postgres", "pgserver", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs the server; `borrowed` when we are root and it is somebody else."""

    uid: int
    gid: int
    borrowed: bool

    def options(self) -> dict[str, Any]:
        """What `subprocess` needs to run a program as this account."""
        if not self.borrowed:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Give a file or directory that we made to this account."""
        if self.borrowed:
            os.chown(path, self.uid, self.gid)

    def can(self, test: str, path: Path) -> bool:
        """Ask the system itself, as this account: `test -x path` and its like."""
        asked: Sequence[str] = ("test", f"-{test}", str(path))
        return subprocess.run(asked, check=False, cwd="/", **self.options()).returncode == 0


@cache
def server_account() -> Account:
    """The account for servers started by this process. Raises `ConfigError` when root finds none."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), borrowed=False)
    for name in CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid, borrowed=True)
    raise ConfigError(
        f"PostgreSQL does not run as root, and none of the accounts {', '.join(CANDIDATES)} exists to run "
        "it as. Create one (useradd --system postgres), or run this as a normal user."
    )
