"""Spark 4.1 with Iceberg, in the readers' environment: runs the SQL that comes in, on this machine only."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import SparkSession

from readers.answers import serve

SETTINGS = {
    "spark.driver.memory": "1g",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    # Sessions are short: compiling for speed and collecting in parallel would cost more than they save.
    "spark.driver.extraJavaOptions": f"-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.io.tmpdir={Path.cwd()}",
    "spark.ui.enabled": "false",
    "spark.sql.catalogImplementation": "in-memory",
    "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
    "spark.sql.session.timeZone": "UTC",
    # A handful of rows: with two hundred partitions a join would take seconds.
    "spark.sql.shuffle.partitions": "1",
    # What it leaves behind goes with the process's own directory, however it ends.
    "spark.sql.warehouse.dir": str(Path.cwd() / "warehouse"),
    "spark.local.dir": str(Path.cwd() / "local"),
}


def main(runtime: str) -> None:
    builder = SparkSession.builder.master("local[1]").config("spark.jars", runtime)
    for name, value in SETTINGS.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")

    def answer(request: dict[str, Any]) -> pa.Table | None:
        for name, value in request.get("settings", {}).items():
            session.conf.set(name, value)
        for name, path in request.get("views", {}).items():
            session.read.parquet(path).createOrReplaceTempView(name)
        return session.sql(request["sql"]).toArrow() if "sql" in request else None

    serve(answer)
    session.stop()


if __name__ == "__main__":
    main(sys.argv[1])
