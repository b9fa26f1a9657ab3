"""The `lakehouse` section of pipeline.yaml."""

from __future__ import annotations

from pathlib import Path

from pydantic import ConfigDict

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


class LakehouseConfig(ComponentConfig):
    """Where the lake is."""

    catalog: CatalogConfig = CatalogConfig(uri="sqlite:///lake/catalog.db", warehouse="lake/warehouse")
    gold: Path | None = None
    """A directory of gold models (.sql), relative to pipeline.yaml."""
    gold_interval_seconds: float = 2.0
    """How often gold models are refreshed at most, beside capture."""
    gold_budget_percent: float = 10.0
    """Of the time, how much may gold models take at most."""
