"""The lake of a pipeline as it is at a moment: what it holds, and each source table's tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from catchment.errors import ConfigError, SinkUnavailable
from catchment.lakehouse.catalog import catalog_errors, load_catalog
from catchment.lakehouse.ops import OpsStore
from catchment.lakehouse.properties import KIND, PINNED, PIPELINE, TABLE
from catchment.lakehouse.reading.moment import LakeReader, TableSnapshot
from catchment.progress import Progress

if TYPE_CHECKING:
    from catchment.config import PipelineConfig

LAYERS = ("bronze", "silver")


@dataclass(frozen=True, slots=True)
class LakeMoment:
    """What the lake holds, and its tables by the source's names, read after that."""

    held: Progress
    tables: dict[str, LakeTable]


@dataclass(frozen=True, slots=True)
class LakeTable:
    """A source table's tables in the lake. pinned: silver was rolled back, and does not follow bronze now."""

    bronze: TableSnapshot
    silver: TableSnapshot | None = None
    quarantine: TableSnapshot | None = None

    @property
    def layer(self) -> str:
        """Which of them is compared: silver with its quarantine, or where there is none what bronze amounts to."""
        return "current" if self.silver is None else "silver"

    @property
    def snapshot(self) -> int | None:
        """Its snapshot."""
        return self.bronze.snapshot if self.silver is None else self.silver.snapshot

    @property
    def pinned(self) -> bool:
        """Was silver rolled back, so that it does not follow bronze now?"""
        return self.silver is not None and bool(self.silver.properties.get(PINNED))


class Lake:
    """Moments of one pipeline's lake. One thread."""

    def __init__(self, config: PipelineConfig) -> None:
        store = OpsStore.existing(config.lakehouse, config.directory)
        if store is None:
            raise ConfigError(f"There is no lake of pipeline {config.name} yet. Run it first: catchment run.")
        self._store = store
        self._pipeline = config.name
        self._sinks = [sink.name for sink in config.sink_configs if sink.type == "iceberg"]
        if not self._sinks:
            raise ConfigError(f"Pipeline {config.name} has no sink of type iceberg: there is no lake to verify.")
        self._catalog = load_catalog(config.lakehouse.catalog, config.directory)
        self._reader = LakeReader(self._catalog)

    def held(self) -> Progress:
        """What the lake holds now."""
        held = self._store.progress(self._pipeline).get(self._sinks[0])
        if held is None:
            raise SinkUnavailable(f"The lake of pipeline {self._pipeline} holds nothing yet. Run it first.")
        return held

    def reported_at(self) -> float | None:
        """When a process last said that it runs the pipeline; None when none does, or none ever did."""
        report = self._store.latest_report(self._pipeline)
        return report.at if report is not None and report.state == "running" else None

    def moment(self) -> LakeMoment:
        """The lake now."""
        held = self.held()
        with catalog_errors("The lake cannot be read"):
            found = self._reader.tables(LAYERS)
        kinds: dict[str, dict[str, TableSnapshot]] = {}
        for table in found:
            if table.properties.get(PIPELINE) == self._pipeline:
                kind = table.properties.get(KIND, "bronze")
                kinds.setdefault(table.properties[TABLE], {})[kind] = table
        tables = {
            name: LakeTable(of["bronze"], of.get("silver"), of.get("quarantine"))
            for name, of in kinds.items()
            if "bronze" in of
        }
        return LakeMoment(held, tables)

    def close(self) -> None:
        """Let go of the catalog and the operations data."""
        self._catalog.close()
        self._store.close()
