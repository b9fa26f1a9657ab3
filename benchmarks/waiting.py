"""A backlog, and pipelines that stopped just before it: what catch-up and live are measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks import orders
from benchmarks.orders import Backlog
from benchmarks.process import Cost
from benchmarks.server import Database, database
from benchmarks.subject import Subject, subject
from catchment.demo.postgres import EmbeddedPostgres


@dataclass(frozen=True, slots=True)
class Waiting:
    """Changes that wait for each of these pipelines. filled: rows that the table had before."""

    base: Database
    backlog: Backlog
    subjects: Sequence[Subject]
    filled: int = 0

    def check(self, one: Subject) -> None:
        """What the pipeline holds is what it must be."""
        one.must_hold(self.filled + self.backlog.changes + 1)
        if one.silver:
            one.must_equal(self.base)


@contextmanager
def waiting(
    server: EmbeddedPostgres,
    name: str,
    pipelines: Mapping[str, Mapping[str, object]],
    write: Callable[[Database], Backlog],
    *,
    filled: int = 0,
    silver: bool = False,
) -> Iterator[Waiting]:
    """Start each pipeline (name → source options), stop it, then write the backlog.

    filled: rows in the table before that. silver: do the pipelines keep current rows, too?
    """
    with database(server, name) as base:
        if filled:
            with base.connect() as connection:
                orders.fill(connection, filled)
        subjects = [subject(base, pipeline, options, silver=silver) for pipeline, options in pipelines.items()]
        for one in subjects:
            one.run_until_caught_up()
        yield Waiting(base, write(base), subjects, filled)


@dataclass(frozen=True, slots=True)
class Compared:
    """The fastest of all repetitions on either side: what disturbs a run only ever makes it slower.

    ratio: of the speeds, start-up taken off; above 1 Catchment is faster. peak_bytes: the highest.
    """

    ratio: float
    changes_per_second: float
    baseline_per_second: float
    with_startup_per_second: float
    startup_seconds: float
    cpu_seconds: float
    peak_bytes: int

    def beside(self, baseline: str) -> dict[str, float]:
        """What the ratio is made of."""
        return {
            "Catchment/s": self.changes_per_second,
            f"{baseline}/s": self.baseline_per_second,
            "with start-up/s": self.with_startup_per_second,
            "start-up s": self.startup_seconds,
            "CPU s": self.cpu_seconds,
        }


def compare(work: Waiting, baseline: Callable[[Database, str, str], float]) -> Compared:
    """Baseline and Catchment in turns over the same backlog, so that both meet the same neighbours.

    Start-up is what a run takes that finds nothing waiting: of a pipeline whose slot is younger than the backlog,
    because after catching up a server reads old WAL again for a while, and that is not start-up.
    """
    backlog, base = work.backlog, work.base
    empty = subject(base, f"{work.subjects[0].name}_empty", {"snapshot": "never"}, silver=work.subjects[0].silver)
    empty.run_until_caught_up()
    # The first reading brings the WAL into the file cache; it does not count.
    baseline(base, work.subjects[-1].slot, backlog.end_lsn)
    costs: list[Cost] = []
    theirs: list[float] = []
    startups: list[float] = []
    for one in work.subjects:
        theirs.append(baseline(base, one.slot, backlog.end_lsn))
        costs.append(one.run_until_caught_up())
        startups.append(empty.run_until_caught_up().seconds)
        work.check(one)
    ours, startup, their = min(cost.seconds for cost in costs), min(startups), min(theirs)
    net = ours - startup
    assert net > 0, "the backlog is too small to be told from start-up"
    return Compared(
        ratio=their / net,
        changes_per_second=backlog.changes / net,
        baseline_per_second=backlog.changes / their,
        with_startup_per_second=backlog.changes / ours,
        startup_seconds=startup,
        cpu_seconds=min(cost.cpu_seconds for cost in costs),
        peak_bytes=max(cost.peak_bytes for cost in costs),
    )
