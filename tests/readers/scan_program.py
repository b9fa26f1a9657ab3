"""DuckDB with its Iceberg extension, and Polars, in the readers' environment: reads what the requests name."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow as pa
from pyiceberg.catalog import load_catalog

from readers.answers import serve

VERSION = f"v{duckdb.__version__}"


def main() -> None:
    connection = duckdb.connect(config={"autoinstall_known_extensions": False, "autoload_known_extensions": False})
    connection.execute("SET TimeZone = 'UTC'")
    for name in ("httpfs", "avro", "iceberg"):
        connection.execute(f"LOAD '{_extension(name)}'")

    def answer(request: dict[str, Any]) -> pa.Table | None:
        if "polars" in request:
            source = request["polars"]
            if "catalog" in request:
                source = load_catalog("lake", type="rest", uri=request["catalog"]).load_table(source)
            frame: pa.Table = polars.scan_iceberg(source).collect().to_arrow()
            return frame
        result = connection.execute(request["sql"])
        return result.to_arrow_table() if result.description else None

    serve(answer)


def _extension(name: str) -> Path:
    """The file that a package of PyPI brings: DuckDB's own INSTALL would ask the network."""
    package = importlib.util.find_spec(f"duckdb_extension_{name}")
    assert package is not None and package.origin is not None
    return Path(package.origin).parent / "extensions" / VERSION / f"{name}.duckdb_extension"


if __name__ == "__main__":
    main()
