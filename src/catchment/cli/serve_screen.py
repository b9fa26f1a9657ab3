"""What `catchment serve` tells a person: lines to paste into each reader."""

from __future__ import annotations

from textwrap import dedent

RUNTIME = "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.11.0"


def instructions(pipeline: str, uri: str, example: str | None) -> str:
    """How to open the catalog at `uri`, shown with one of its tables (`namespace.table`); None: there is none yet."""
    empty = "" if example else " It has no tables yet: catchment run fills it."
    table = example or "bronze.orders"
    return dedent(f"""\
        The lake of {pipeline} is open for reading at {uri}. Ctrl-C ends that.{empty}

        DuckDB
            INSTALL iceberg; LOAD iceberg;
            ATTACH '{pipeline}' AS lake (TYPE iceberg, ENDPOINT '{uri}', AUTHORIZATION_TYPE 'none');
            FROM lake.{table} LIMIT 10;

        Spark 4.1
            spark-sql --packages {RUNTIME} \\
              --conf spark.sql.catalog.lake=org.apache.iceberg.spark.SparkCatalog \\
              --conf spark.sql.catalog.lake.type=rest --conf spark.sql.catalog.lake.uri={uri} \\
              --conf spark.sql.catalog.lake.cache-enabled=false
            SELECT * FROM lake.{table} LIMIT 10;

        PyIceberg, Polars
            from pyiceberg.catalog import load_catalog
            table = load_catalog("lake", type="rest", uri="{uri}").load_table("{table}")
            table.scan(limit=10).to_arrow()
            polars.scan_iceberg(table).head(10).collect()
        """)
