"""Runs a verification: tables in groups, each group at a point of its own, so that no point is held for long.

For each group: what the lake holds now; the source at a point X, which is later; the changes between, out of bronze
as soon as the running pipeline has landed them, or read beside the slot when none runs; both sides' digests; and
where they differ, the keys. What moves under our feet (files that maintenance deleted, a table that was
altered) makes the group begin again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import duckdb

from catchment.errors import ConfigError, Retriable, SinkUnavailable
from catchment.lakehouse.lease import holder
from catchment.lakehouse.properties import BRONZE_SINCE
from catchment.lakehouse.reading.bronze import Unreadable
from catchment.pipeline import FlushPolicy
from catchment.pipeline_status import RECENT_SECONDS
from catchment.sources.verification import SourcePoint, SourceVerification, Verifiable, VerifiableTable
from catchment.verify.comparison import MEMORY, Comparison, Differences, named, open_comparisons
from catchment.verify.digest import RowDigest
from catchment.verify.lake import Lake, LakeMoment
from catchment.verify.point_rows import Passage, RowsAtPoint, rows_at
from catchment.verify.report import Outcome, TableResult, Verdict

if TYPE_CHECKING:
    from catchment.change import ChangeBatch
    from catchment.config import PipelineConfig
    from catchment.progress import Progress

ATTEMPTS = 4
GROUP_ROWS = 2_000_000
GROUP_TABLES = 20
SAMPLE_SHARE = 0.1
SAMPLE_LEAST = 4
PULLED_BYTES = 256 << 20
POLL_SECONDS = 0.1
DEFAULT_TIMEOUT_SECONDS = 3600.0
WAITING = (
    "waiting for the running pipeline to land what came before the point; without changes it says every "
    f"{FlushPolicy().idle_interval_seconds:.0f} s how far it is"
)


@dataclass(frozen=True, slots=True)
class Step:
    """How far it is: rows of a table that were read at the source, of about so many."""

    table: str
    doing: str
    rows: int = 0
    rows_estimate: int = 0


Tell = Callable[[Step], None]


class Verification:
    """One verification of a pipeline's lake against its source.

    table: only this one, by the source's name or the lake's. deep: compare the values of every chunk instead of
    some. timeout_seconds: how long a point may be held at the source.
    """

    def __init__(
        self,
        config: PipelineConfig,
        *,
        table: str | None = None,
        deep: bool = False,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        tell: Tell = lambda _: None,
    ) -> None:
        source = config.source_config
        if not isinstance(source, Verifiable):
            raise ConfigError(f"A source of type {source.type} cannot be compared with the lake.")
        self._config = config
        self._wanted = table
        self._deep = deep
        self._timeout = timeout_seconds
        self._tell = tell
        self._chain = config.chain()
        self._open_source = source.verification
        self._results: dict[str, TableResult] = {}

    def run(self) -> Verdict:
        """Compare. Raises `Fatal` when there is nothing to compare, `Retriable` when a side cannot be reached."""
        lake = Lake(self._config)
        source = self._open_source(self._config.context)
        try:
            tables = self._chosen(source.tables(lake.held()))
            for group in _groups(self._comparable(tables)):
                self._group(source, lake, group)
        finally:
            source.close()
            lake.close()
        return Verdict(self._config.name, self._deep, [self._results[table.name] for table in tables])

    def _chosen(self, tables: list[VerifiableTable]) -> list[VerifiableTable]:
        if self._wanted is None:
            return tables
        names = (self._wanted, f"public.{self._wanted}")
        found = [table for table in tables if table.name in names or table.name.replace(".", "_", 1) == self._wanted]
        if not found:
            there = ", ".join(table.name for table in tables) or "none"
            raise ConfigError(f"There is no captured table {self._wanted}; there are: {there}.")
        return found

    def _comparable(self, tables: Sequence[VerifiableTable]) -> Iterator[VerifiableTable]:
        for table in tables:
            if table.obstacle is None:
                yield table
            else:
                outcome = Outcome.SKIPPED if table.lasting else Outcome.UNSETTLED
                self._results[table.name] = TableResult(table.name, outcome, table.obstacle)

    def _group(self, source: SourceVerification, lake: Lake, group: Sequence[VerifiableTable]) -> None:
        """Compare these at one point; anew for those that are left when something moved."""
        for attempt in range(1, ATTEMPTS + 1):
            left = [table for table in group if table.name not in self._results]
            if not left:
                return
            try:
                self._at_point(source, lake, left)
            except _ReadAnew:
                now = {one.name: one for one in source.tables(lake.held())}
                group = list(self._comparable([now[table.name] for table in left if table.name in now]))
            except Retriable as error:
                if attempt == ATTEMPTS or isinstance(error, _Behind):
                    for table in left:
                        if table.name not in self._results:
                            self._results[table.name] = TableResult(table.name, Outcome.UNSETTLED, str(error))
                    return

    def _at_point(self, source: SourceVerification, lake: Lake, group: Sequence[VerifiableTable]) -> None:
        before = lake.moment()
        names = [table.name for table in group]
        self._tell(Step(", ".join(names), "waiting for a point at the source"))
        with source.point(names, before.held, self._timeout) as point:
            later = self._landed(lake, names, point)
            if later is None and lake.held() != before.held:
                raise SinkUnavailable("The pipeline ran for a moment meanwhile. Run verify again.")
            # What was read anew just before the point is not among the changes since.
            readings = {one.name: one.reading for one in source.tables((later or before).held)}
            pulled = [] if later is not None else self._pulled(source, names, before.held, point)
            for table in group:
                if readings.get(table.name) != table.reading:
                    raise _ReadAnew(f"{table.name} is being read anew. Run verify again once it is.")
                self._results[table.name] = self._table(table, before, later, pulled, point)

    def _table(
        self,
        table: VerifiableTable,
        before: LakeMoment,
        later: LakeMoment | None,
        pulled: Sequence[ChangeBatch],
        point: SourcePoint,
    ) -> TableResult:
        there = before.tables.get(table.name)
        landed = later.tables.get(table.name) if later is not None else None
        if there is None or (later is not None and landed is None):
            why = "it is not in the lake yet: no row of it was captured so far"
            return TableResult(table.name, Outcome.UNSETTLED, why, point.label)
        if there.pinned:
            why = "it was rolled back and is pinned: `catchment resume` lets it follow its source again"
            return TableResult(table.name, Outcome.SKIPPED, why, point.label, there.layer, there.snapshot)
        if there.silver is None and (since := there.bronze.properties.get(BRONZE_SINCE)) is not None:
            why = f"it has no silver, and bronze does not reach back to its beginning but to {since}"
            return TableResult(table.name, Outcome.SKIPPED, why, point.label, there.layer, there.snapshot)
        (lane,) = point.position.positions
        mine = [batch for batch in pulled if str(batch.table) == table.name]
        return _TableAtWork(self, table, Passage(there, landed, mine, lane, point.version), point).result()

    def _landed(self, lake: Lake, names: Sequence[str], point: SourcePoint) -> LakeMoment | None:
        """The lake once it has all that came before the point; None when nobody runs the pipeline."""
        while not lake.held().covers(point.position):
            if not self._runs(lake):
                return None
            self._tell(Step(", ".join(names), WAITING))
            point.chunks(names[0])  # raises once the point is gone
            time.sleep(POLL_SECONDS)
        return lake.moment()

    def _runs(self, lake: Lake) -> bool:
        if holder(self._config.name, self._config.directory) is not None:
            return True
        reported = lake.reported_at()
        return reported is not None and time.time() - reported < RECENT_SECONDS

    def _pulled(
        self, source: SourceVerification, names: Sequence[str], since: Progress, point: SourcePoint
    ) -> list[ChangeBatch]:
        self._tell(Step(", ".join(names), "reading what the lake does not have yet beside the slot"))
        size = 0
        batches: list[ChangeBatch] = []
        for read in source.changes(names, since, point):
            batch = self._chain.apply(read)
            if batch is None:
                continue
            size += batch.records.nbytes
            if size > PULLED_BYTES:
                raise _Behind(
                    f"Nobody runs pipeline {self._config.name}, and the lake is more than {PULLED_BYTES >> 20} MB of "
                    "changes behind its source. Run `catchment run … --until-caught-up` first."
                )
            batches.append(batch)
        return batches


class _ReadAnew(SinkUnavailable):
    """What is known of the tables is old."""


class _Behind(SinkUnavailable):
    """The lake is too far behind: trying again at once would find the same."""


class _TableAtWork:
    """One table's comparison at a point."""

    def __init__(
        self,
        run: Verification,
        table: VerifiableTable,
        passage: Passage,
        point: SourcePoint,
    ) -> None:
        self._run = run
        self._table = table
        self._passage = passage
        self._point = point
        self._rows = 0

    def result(self) -> TableResult:
        """What was found. Raises `Retriable` when something moved meanwhile."""
        began = time.monotonic()
        schema = self._run._chain.schema(self._point.schema(self._table.name))
        connection = open_comparisons()
        try:
            with rows_at(connection, self._passage, schema) as rows:
                comparison = Comparison(connection, RowDigest(schema, rows.row, rows.places))
                found = self._compared(comparison, rows)
        except Unreadable as reason:
            return TableResult(self._table.name, Outcome.SKIPPED, str(reason), self._point.label)
        except (duckdb.IOException, FileNotFoundError) as error:
            raise SinkUnavailable(
                f"A file of {self._table.name} went away while it was read (compacted, expired). Run verify again."
            ) from error
        except duckdb.OutOfMemoryException as error:
            raise SinkUnavailable(
                f"Comparing {self._table.name} needs more than {MEMORY} and the space in the temporary directory. "
                "Give TMPDIR a larger disk, and run verify again."
            ) from error
        finally:
            connection.close()
        seconds = time.monotonic() - began
        return replace(found, seconds=round(seconds, 3), rows_per_second=round(found.source_rows / max(seconds, 1e-9)))

    def _compared(self, comparison: Comparison, rows: RowsAtPoint) -> TableResult:
        self._tell("reading the lake")
        comparison.lake(rows)
        total = self._point.chunks(self._table.name)
        sample = list(range(total)) if self._run._deep else _sample(total)
        for chunk, batch in self._source(sample):
            comparison.source(chunk, batch, key_only=False)
        for chunk, batch in self._source(sorted(set(range(total)) - set(sample)), key_only=True):
            comparison.source(chunk, batch, key_only=True)
        self._tell("comparing")
        differences = comparison.differences()
        source_rows, lake_rows, quarantined = comparison.counts()
        found = TableResult(
            self._table.name,
            Outcome.EQUAL if differences.none else Outcome.DIFFERENT,
            position=self._point.label,
            layer=self._passage.before.layer,
            snapshot=self._passage.before.snapshot,
            source_rows=source_rows,
            lake_rows=lake_rows,
            quarantined_rows=quarantined,
            chunks=total,
            compared=len(sample),
        )
        return found if differences.none else self._explained(found, comparison, rows, differences)

    def _explained(
        self, found: TableResult, comparison: Comparison, rows: RowsAtPoint, differences: Differences
    ) -> TableResult:
        self._tell("looking up the keys that differ")
        comparison.named_in_lake(rows)
        comparison.named_at_source(batch for _, batch in self._source(differences.chunks))
        keys = comparison.keys()
        columns = comparison.columns()
        return replace(
            found,
            missing=named(differences.missing, keys["missing"]),
            extra=named(differences.extra, keys["extra"]),
            different=named(differences.different, keys["different"]),
            columns={name: count for name, (count, _) in columns.items()},
            notes=self._notes({name for name, (count, empty) in columns.items() if count == empty}),
        )

    def _notes(self, empty: set[str]) -> list[str]:
        """Reasons that can be told. empty: columns that differ, and that are NULL in the lake wherever they do."""
        late = self._point.late_defaults(self._table.name)
        return [
            f"Column {name} was added with a default when there were rows: they have NULL in the lake until they "
            "change, or the table is read anew."
            for name in sorted(empty & late)
        ]

    def _source(self, chunks: Sequence[int], *, key_only: bool = False) -> Iterator[tuple[int, ChangeBatch]]:
        for chunk, read in self._point.rows(self._table.name, chunks, key_only=key_only):
            batch = self._run._chain.apply(read)
            if batch is not None:
                yield chunk, batch
                self._rows += len(batch)
                self._tell("reading the source")

    def _tell(self, doing: str) -> None:
        self._run._tell(Step(self._table.name, doing, self._rows, self._table.rows_estimate))


def _sample(chunks: int) -> list[int]:
    """Other chunks at every run: what one misses, another finds."""
    size = min(chunks, max(SAMPLE_LEAST, round(chunks * SAMPLE_SHARE)))
    return sorted(random.sample(range(chunks), size))


def _groups(tables: Iterator[VerifiableTable]) -> Iterator[list[VerifiableTable]]:
    """Small tables together; a large one by itself."""
    group: list[VerifiableTable] = []
    rows = 0
    for table in tables:
        if group and (rows + table.rows_estimate > GROUP_ROWS or len(group) == GROUP_TABLES):
            yield group
            group, rows = [], 0
        group.append(table)
        rows += table.rows_estimate
    if group:
        yield group
