"""The silver tables of a pipeline's lake, opened when they are needed and brought up to bronze."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from pyiceberg.types import StructType

from catchment.errors import ConfigError
from catchment.lakehouse.column_versions import key_columns
from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.data_file import ParquetSettings
from catchment.lakehouse.properties import BRONZE_SINCE, MARKER, key_of
from catchment.lakehouse.silver.keyed_table import KeyedTable
from catchment.lakehouse.silver.table import OUR_COLUMNS, SilverPlan, SilverTable, Submit
from catchment.lakehouse.table import LakeTable
from catchment.lakehouse.writer import LakeWriter
from catchment.progress import Progress
from catchment.quality.rules import QualityRules, load_rules
from catchment.telemetry import LOGGER

log = logging.getLogger(LOGGER)


class SilverLayer:
    """Opens silver tables for one writer; the same object for everyone who asks.

    submit: has merging done on the merging thread; without it it is done at once.
    """

    def __init__(
        self,
        writer: LakeWriter,
        lakehouse: LakehouseConfig,
        directory: Path,
        *,
        settings: ParquetSettings | None = None,
        target_file_bytes: int = 256 * 1024 * 1024,
        submit: Submit | None = None,
    ) -> None:
        self._writer = writer
        self._config = lakehouse
        self._directory = directory
        self._settings = settings or ParquetSettings()
        self._target = target_file_bytes
        self._submit: Submit = submit or (lambda task: task())
        self._rules = _rules(lakehouse, directory)
        self._tables: dict[str, SilverTable] = {}
        self._told: set[str] = set()
        self.waiting: set[str] = set()
        """Tables whose key bronze does not have yet, until its next commit: a key column got another name or type."""

    def table(self, name: str, key: Sequence[str] | None = None) -> SilverTable | None:
        """The silver table of a bronze one, holding all that bronze does; None where there is to be none.

        key: the source's; without it, what bronze says. A table that was rolled back stays as it is.
        """
        with self._writer.lock:
            known = self._tables.get(name)
            if known is None or (key is not None and tuple(key) != known.source_key):
                bronze = self._writer.existing(("bronze", name))
                if bronze is None or not self._wanted(name):
                    return None
                columns = key if key is not None else key_of(bronze.metadata.properties)
                if not columns or self.clashes(name, _columns(bronze)):
                    return None
                if known is not None:
                    self._tables.pop(name).close()
                if not _columns(bronze) >= set(columns):
                    self.waiting.add(name)
                    return None
                known = self._open(name, bronze, tuple(columns))
                self._tables[name] = known
            return known

    def follow_keys(self) -> None:
        """Bring up the tables whose key in bronze is another one: no change of theirs may come that would open them."""
        with self._writer.lock:
            for bronze in self._writer.tables(("bronze",)):
                name = bronze.table.name()[-1]
                silver = self._writer.existing(("silver", name)) if self._wanted(name) else None
                wanted = key_columns(key_of(bronze.metadata.properties), sorted(_columns(bronze)))
                if silver is not None and wanted and set(key_of(silver.metadata.properties)) != set(wanted):
                    self.table(name)

    def clashes(self, name: str, columns: Collection[str]) -> bool:
        """Has the source a column of a name that silver needs? Then there is bronze, and `current`."""
        taken = {column.lower() for column in columns} & set(OUR_COLUMNS)
        if taken and name not in self._told:
            self._told.add(name)
            which = ", ".join(sorted(taken))
            log.warning("There is no silver.%s: its source has a column %s, and so would silver.", name, which)
        return bool(taken)

    def lacks_key(self, silver: SilverTable, columns: Sequence[str]) -> bool:
        """Does its key live on in another one of bronze's columns? Then silver can follow from the next opening on."""
        lacking = not set(key_columns(silver.source_key, columns)) <= set(silver.key)
        if lacking:
            self.waiting.add(silver.name)
        return lacking

    def opened(self) -> list[SilverTable]:
        """The tables that are open now."""
        return list(self._tables.values())

    def keyed(self, lake: LakeTable) -> KeyedTable | None:
        """The keyed table of a silver or quarantine table; opened, if it is not. For maintenance."""
        name = lake.table.name()[-1]
        found = self.table(name) or self.table(name.removesuffix("_quarantine"))
        return next((one for one in (found.tables if found is not None else ()) if one.lake is lake), None)

    def plan(self, name: str) -> SilverPlan:
        """What is kept of a table, as configured."""
        return SilverPlan(
            self._settings,
            self._target,
            self._rules.tables.get(name) if self._rules is not None else None,
            followed(self._config.history, name),
        )

    def commit(self, silver: SilverTable, marker: str) -> None:
        """Commit what was merged into one table beside the pipeline's own flushes. marker: what it then holds."""
        with self._writer.lock:
            brief = Progress.from_json(marker).brief().to_json()
            self._writer.commit(silver.drafts({MARKER: marker}, {MARKER: brief}))
            silver.settle()

    def close(self) -> None:
        """Let go of all tables."""
        with self._writer.lock:
            for table in self._tables.values():
                table.close()
            self._tables.clear()

    def _open(self, name: str, bronze: LakeTable, key: tuple[str, ...]) -> SilverTable:
        silver = SilverTable(self._writer, bronze, key, self._directory, self.plan(name), self._submit)
        try:
            self._catch_up(silver, bronze)
        except BaseException:
            silver.close()
            raise
        return silver

    def _catch_up(self, silver: SilverTable, bronze: LakeTable) -> None:
        """Silver is behind bronze where it was just switched on, or where tables are committed one by one."""
        marker = bronze.metadata.properties.get(MARKER)
        held = silver.main.lake.metadata.properties.get(MARKER)
        anew = key_of(silver.main.lake.metadata.properties) != silver.key
        if marker is None or silver.pinned:
            return
        if marker == held and not anew:
            self.mend(silver)
            self._begin_history(silver, bronze, marker)
            return
        log.info("silver.%s is brought up to its bronze table.", silver.name)
        cut = bronze.metadata.properties.get(BRONZE_SINCE)
        # Rows that bronze has no more are here alone: with another key they stay, until the table was read again.
        if held is None or (anew and not cut):
            if held is not None and silver.versions is not None and not silver.lacks_history:
                # Rows made anew are in history already; what bronze got alone, while the key changed, is not.
                silver.replay(Progress.from_json(held))
            silver.rebuild()
        else:
            silver.replay(Progress.from_json(held))
            if silver.half_committed and silver.unresolved and not cut:
                # What a change did not send may have left with the row that quarantine no longer has.
                silver.rebuild()
        self.commit(silver, marker)
        self.mend(silver)
        self._begin_history(silver, bronze, marker)

    def _begin_history(self, silver: SilverTable, bronze: LakeTable, marker: str) -> None:
        """History was switched on for a table that had rows: it begins with what bronze has, else with these rows."""
        if not silver.lacks_history:
            return
        cut = bronze.metadata.properties.get(BRONZE_SINCE)
        if cut and not any(one.rows for one in silver.tables):
            return
        log.info("silver.%s_versions is begun.", silver.name)
        if cut:
            silver.begin_history()
        else:
            silver.rebuild()
        self.commit(silver, marker)

    def mend(self, silver: SilverTable) -> None:
        """Where changes overtook their snapshot, and it is there now, make the rows anew. Comes after a commit."""
        with self._writer.lock:
            marker = silver.main.lake.metadata.properties.get(MARKER)
            cut = silver.bronze.metadata.properties.get(BRONZE_SINCE)
            if silver.mend_due and marker is not None and not silver.pinned and not cut:
                log.info("silver.%s is made anew: changes had overtaken its snapshot.", silver.name)
                silver.rebuild()
                self.commit(silver, marker)

    def _wanted(self, name: str) -> bool:
        wanted = self._config.silver
        return wanted if isinstance(wanted, bool) else name in wanted


def _columns(bronze: LakeTable) -> set[str]:
    """The columns of the rows in a bronze table."""
    row = bronze.metadata.schema().find_field("after").field_type
    return {field.name for field in row.fields} if isinstance(row, StructType) else set()


def followed(history: Sequence[str], table: str) -> tuple[str, ...] | None:
    """The columns of a table whose history is kept: () for all, None for none. history: `table` or `table.column`."""
    if table in history:
        return ()
    columns = tuple(one.removeprefix(f"{table}.") for one in history if one.startswith(f"{table}."))
    return columns or None


def _rules(lakehouse: LakehouseConfig, directory: Path) -> QualityRules | None:
    if lakehouse.quality is None:
        return None
    if lakehouse.silver is False:
        raise ConfigError("`lakehouse.quality` needs `lakehouse.silver`: rules are judged when rows are merged.")
    return load_rules(directory / lakehouse.quality)
