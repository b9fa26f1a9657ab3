"""What validation says of a catalog that is not there."""

from __future__ import annotations

from pathlib import Path

from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.preflight import check_lake


def test_a_catalog_that_is_missing_beside_its_tables_is_warned_of(tmp_path: Path) -> None:
    (first,) = (one for one in check_lake(LakehouseConfig(), tmp_path, "shop") if one.subject == "catalog")
    assert (first.severity, "will be created" in first.message) == ("ok", True)
    metadata = tmp_path / "lake" / "warehouse" / "bronze" / "orders" / "metadata"
    metadata.mkdir(parents=True)
    (metadata / "00000-0.metadata.json").write_text("{}")
    (found,) = (one for one in check_lake(LakehouseConfig(), tmp_path, "shop") if one.subject == "catalog")
    assert found.severity == "warning"
    assert "catchment restore" in found.message
    assert not (tmp_path / "lake" / "catalog.db").exists()
