"""What an earlier run has seen of a table's objects, so that only new ones are looked into."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from catchment.glue.layout import S3Object
from catchment.glue.partition_layout import Target
from catchment.glue.segments import default_base

_CLOCK = timedelta(seconds=60)
"""How much later than its time an object may turn up in a listing."""


@dataclass
class Seen:
    """What an earlier run has seen: the latest time of an object, and the objects of about that time."""

    file: Path
    newest: datetime | None
    recent: frozenset[str]

    @staticmethod
    def of(target: Target) -> Seen:
        found = Seen.nothing(target)
        try:
            told = json.loads(found.file.read_text(encoding="utf-8"))
            found.newest, found.recent = datetime.fromisoformat(told["newest"]), frozenset(told["recent"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # the first run, or a file of another version: everything is looked at again
        return found

    @staticmethod
    def nothing(target: Target) -> Seen:
        identity = "\0".join([os.environ.get("AWS_ENDPOINT_URL", ""), target.database, target.table, target.location])
        name = hashlib.sha256(identity.encode()).hexdigest()[:32]
        return Seen(default_base().parent / "catalog" / f"{name}.json", None, frozenset())

    def is_new(self, one: S3Object) -> bool:
        if self.newest is None or one.modified is None:
            return True
        return one.modified > self.newest - _CLOCK and identity(one) not in self.recent

    def remember(self, objects: Iterable[S3Object]) -> None:
        known = [one for one in objects if one.modified is not None]
        newest = max((one.modified for one in known if one.modified is not None), default=None)
        if newest is None:
            return
        recent = [identity(one) for one in known if one.modified is not None and one.modified > newest - _CLOCK]
        self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished = self.file.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps({"newest": newest.isoformat(), "recent": sorted(recent)}), encoding="utf-8")
        unfinished.replace(self.file)


def identity(one: S3Object) -> str:
    return f"{one.key}\t{one.etag}"
