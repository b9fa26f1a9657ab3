"""A catalog's address that cannot be used is a wrong configuration, and a password in it is not said."""

from __future__ import annotations

from pathlib import Path

import pytest

from catchment.errors import ConfigError
from catchment.lakehouse.catalog import load_catalog, open_engine
from catchment.lakehouse.config import CatalogConfig


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql+psycopg//app:geheim@db/lake",
        "postgresql+psycopg://app@db:geheim/lake",
        "lake.db",
        "nosuch://app:geheim@db/lake",
        "oracle://app:geheim@db/lake",
    ],
)
def test_it_is_told(tmp_path: Path, uri: str) -> None:
    for opened in (
        lambda: load_catalog(CatalogConfig(type="sql", uri=uri, warehouse="lake"), tmp_path),
        lambda: open_engine(uri),
    ):
        with pytest.raises(ConfigError, match=r"lakehouse\.catalog") as told:
            opened()
        assert "geheim" not in str(told.value)
