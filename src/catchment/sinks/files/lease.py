"""One writer of a prefix in S3: an object that says who, beats while it lives, and is replaced by its version.

A lease cannot make sure that its last holder has stopped: it only keeps two live processes from taking turns. What a
late writer could still do is fenced where it matters, in the log of ranges (`ranges.py`).
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from catchment.errors import LeaseHeld, LeaseLost, Retriable, SinkRefused
from catchment.sinks.files.bucket import Bucket, Stored
from catchment.telemetry import LOGGER

log = logging.getLogger(LOGGER)

PATH = "_catchment/lease.json"
SECONDS = 30.0
"""A holder of whom nothing is heard for so long has lost it. Three beats fit in."""

_open_here: set[str] = set()
"""The leases that this process holds: one of its own that is not among them was not let go of for want of a network."""


class ObjectLease:
    """The right to write under a prefix, until `release`, or until it is lost because nothing was heard of us."""

    def __init__(self, bucket: Bucket, seconds: float = SECONDS) -> None:
        self._bucket = bucket
        self._seconds = seconds
        self.nonce = uuid.uuid4().hex
        self.epoch = 0
        self._version: str | None = None
        self._beats = 0
        self._lost = threading.Event()
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take it: at once when it is free or its holder is known to be dead, else after its time without a beat.

        Raises `LeaseHeld` when the holder lives.
        """
        watched: str | None = None
        since = 0.0
        while True:
            found = self._bucket.get(PATH)
            record = _record(found)
            alive = False if found is None or record.get("released") else _is_alive(record)
            if found is not None and alive is None:
                if watched is None:
                    watched, since = found.version, _clock()
                alive = None if found.version == watched else True
                if alive is None and _clock() - since > float(record.get("seconds", SECONDS)):
                    alive = False
            if alive:
                raise LeaseHeld(
                    f"{record.get('holder', 'Another process')} writes to {self._bucket.url}. Stop it, or give this "
                    "sink a prefix of its own."
                )
            if alive is None:
                time.sleep(min(1.0, self._seconds / 10))
            elif self._take(found, int(record.get("epoch", 0)) + 1):
                return

    def _require_conditions(self) -> None:
        """Where conditions are not heeded, this very lease would be worth nothing."""
        if self._bucket.put(PATH, self._said(), None) is not None:
            raise SinkRefused(f"{self._bucket.url} has no conditional writes; exactly-once needs them. Use Amazon S3.")

    def check(self) -> None:
        """Raises `LeaseLost` when another process took the lease over."""
        if self._lost.is_set():
            raise LeaseLost(
                f"Another process has taken over {self._bucket.url}: for {self._seconds:.0f} s nothing was heard of "
                "this one. Leave the work to it."
            )

    def release(self) -> None:
        """Let the next one in at once. May be called twice."""
        if self._thread is None:
            return
        self._released.set()
        self._thread.join()
        self._thread = None
        _open_here.discard(self.nonce)
        if self._lost.is_set():
            return
        try:
            self._bucket.put(PATH, self._said(released=True), self._version)
        except (Retriable, SinkRefused) as error:
            # Nothing depends on it: the next one waits until the lease is over.
            log.warning("The lease of %s stays for %.0f s: %s", self._bucket.url, self._seconds, error)

    def _take(self, found: Stored | None, epoch: int) -> bool:
        self.epoch = epoch
        self._version = self._bucket.put(PATH, self._said(), None if found is None else found.version)
        if self._version is None:
            return False
        self._require_conditions()
        _open_here.add(self.nonce)
        self._thread = threading.Thread(target=self._beat, name="s3-lease", daemon=True)
        self._thread.start()
        return True

    def _beat(self) -> None:
        while not self._released.wait(self._seconds / 3):
            self._beats += 1
            try:
                version = self._bucket.put(PATH, self._said(), self._version)
            except (Retriable, SinkRefused) as error:
                log.warning("The lease of %s could not be renewed: %s", self._bucket.url, error)
                continue
            if version is None and (version := self._earlier_beat()) is None:
                self._lost.set()
                return
            self._version = version

    def _earlier_beat(self) -> str | None:
        """The lease's version when it is still ours: a beat whose answer was never heard may have been stored."""
        try:
            found = self._bucket.get(PATH)
        except (Retriable, SinkRefused):
            return self._version  # not known yet: the next beat asks again
        return found.version if found is not None and _record(found).get("nonce") == self.nonce else None

    def _said(self, *, released: bool = False) -> bytes:
        record = {
            "epoch": self.epoch,
            "holder": f"Process {os.getpid()} on {os.uname().nodename}",
            "process": _process(os.getpid()),
            "nonce": self.nonce,
            "seconds": self._seconds,
            "beat": self._beats,
            "at": _clock(),
            "released": released,
        }
        return json.dumps(record, sort_keys=True).encode() + b"\n"


def _record(found: Stored | None) -> dict[str, Any]:
    if found is None:
        return {}
    try:
        record = json.loads(found.data)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise SinkRefused(f"{PATH} is not what Catchment wrote there. Delete it when nothing writes there.")
    return record


def _is_alive(record: dict[str, Any]) -> bool | None:
    """Does the holder live? None when that cannot be seen from here: another machine, another container."""
    process = record.get("process")
    if not isinstance(process, dict):
        return None
    own = _process(os.getpid())
    if own is None or any(process.get(name) != own[name] for name in ("boot", "namespace")):
        return None
    if process == own:
        return record.get("nonce") in _open_here
    # The same boot, the same clock: a process that is there but has not beaten for long was stopped, or let go unheard.
    return _process(int(process["pid"])) == process and _clock() - float(record["at"]) < float(record["seconds"])


def _process(pid: int) -> dict[str, Any] | None:
    """What is the same for one process only: boot, namespace of process ids, id and start. None where Linux is not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return {
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "namespace": str(Path("/proc/self/ns/pid").readlink()),
            "pid": pid,
            "started": None if fields[0] in "ZX" else int(fields[19]),
        }
    except (OSError, IndexError, ValueError):
        return None


def _clock() -> float:
    """Seconds, those included in which the machine slept, where the system can say."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
