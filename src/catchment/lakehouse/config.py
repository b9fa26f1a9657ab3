"""The `lakehouse` section of pipeline.yaml."""

from __future__ import annotations

from pathlib import Path

from pydantic import ConfigDict, Field, model_validator

from catchment.component import ComponentConfig


class CatalogConfig(ComponentConfig):
    """Any PyIceberg catalog: further keys are handed to PyIceberg as they are."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    type: str = "sql"
    """PyIceberg's catalog type: sql, rest, glue, hive, dynamodb."""
    uri: str | None = None
    """Where the catalog is. A relative SQLite path is relative to pipeline.yaml."""
    warehouse: str | None = None
    """Where tables are stored. A relative path is relative to pipeline.yaml."""


class MaintenanceConfig(ComponentConfig):
    """How the lake's tables are kept healthy, beside capture and by `catchment maintain`."""

    enabled: bool = True
    """Maintain tables while a pipeline runs. Without it, `catchment maintain` still does."""
    interval_seconds: float = Field(default=5.0, gt=0)
    """How often to look what is due, at most. While the process is busy with a burst of changes, work waits up to three
    times as long."""
    budget_percent: float = Field(default=20.0, gt=0, le=100)
    """Of one core, how much may maintenance take at most while a pipeline runs; up to three times as much while a
    table has three times too many dead rows."""
    target_file_bytes: int = Field(default=128 * 1024 * 1024, ge=1024)
    """Small data files are made into files of about this size."""
    dead_row_percent: float = Field(default=12.0, gt=0, lt=100)
    """Once so much of a silver table's rows are dead, the files with the most of them are written anew."""
    snapshot_hours: float = Field(default=6.0, ge=0)
    """How far time travel reaches: the last `snapshots_kept` commits, before those one snapshot an hour, none older.
    0 keeps the last `snapshots_kept` commits, however old they are."""
    orphan_hours: float = Field(default=24.0, ge=1)
    """Files that no snapshot names are deleted once they are so old."""
    bronze_retention_days: float | None = Field(default=None, gt=0)
    """How long changes are kept in bronze once silver has them; without it, for ever."""


class LakehouseConfig(ComponentConfig):
    """Where the lake is."""

    catalog: CatalogConfig = CatalogConfig(uri="sqlite:///lake/catalog.db", warehouse="lake/warehouse")
    silver: bool | list[str] = True
    """Keep the current rows of every table with a key in silver, or of these tables (by their bronze names) only."""
    history: list[str] = Field(default=[])
    """Keep every version of these tables' rows (`dim_users`), or of these columns (`fact_sales.status`)."""
    gold: Path | None = None
    """A directory of gold models (.sql), relative to pipeline.yaml."""
    gold_interval_seconds: float = 2.0
    """How often gold models are refreshed at most, beside capture."""
    gold_budget_percent: float = 10.0
    """Of the time, how much may gold models take at most."""
    quality: Path | None = None
    """A file of quality rules (quality.yaml), relative to pipeline.yaml."""
    maintenance: MaintenanceConfig = MaintenanceConfig()
    """Compaction, expiry, orphans and retention."""

    @model_validator(mode="after")
    def _rules_need_silver(self) -> LakehouseConfig:
        if self.quality is not None and self.silver is False:
            raise ValueError("`quality` needs `silver`: rows are judged when they are merged; take one of them out")
        return self
