"""A program as a child process, and what it cost: time, CPU, peak memory."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_SAMPLE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run cost. peak_bytes: resident memory at its highest, over the program and its children."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    stdout: str = ""


def run(arguments: Sequence[str | Path], *, cwd: Path | None = None, environ: Mapping[str, str] | None = None) -> Cost:
    """Run it to its end. Raises `RuntimeError` with its last words when it fails."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        child = subprocess.Popen(
            list(map(str, arguments)), cwd=cwd, stdout=out, stderr=err, env={**os.environ, **(environ or {})}
        )
        try:
            cpu, peak = _watch(child)
        except BaseException:
            child.kill()
            child.wait()
            raise
        seconds = time.perf_counter() - start
        if child.returncode != 0:
            raise RuntimeError(
                f"{Path(arguments[0]).name} ended with {child.returncode} after {seconds:.0f} s: "
                f"{_tail(err) or _tail(out)}"
            )
        out.seek(0)
        return Cost(seconds, cpu, peak, out.read().decode())


def _watch(child: subprocess.Popen[bytes]) -> tuple[float, int]:
    """Wait for the end; CPU seconds of all its processes, and their peak memory added up.

    The kernel keeps each process's high-water mark (VmHWM), so that nothing between two looks is missed.
    `ru_maxrss` would not do: it begins with what our own process had when it forked.
    """
    peaks: dict[int, int] = {}
    while True:
        for pid in _tree(child.pid):
            peaks[pid] = max(high_water(pid), peaks.get(pid, 0))
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return usage.ru_utime + usage.ru_stime, sum(peaks.values())
        time.sleep(_SAMPLE_SECONDS)


def _tree(pid: int) -> list[int]:
    try:
        return [pid, *(one.pid for one in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def high_water(pid: int) -> int:
    """A process's peak resident memory so far; 0 when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def _tail(file: object, characters: int = 2000) -> str:
    file.seek(0)  # type: ignore[attr-defined]
    return str(file.read().decode(errors="replace")[-characters:]).strip()  # type: ignore[attr-defined]
