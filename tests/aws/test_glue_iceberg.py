"""A lake whose catalog is Glue and whose warehouse is on S3. Never on moto: it loses commits (AWS.md)."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.exceptions import CommitFailedException

import catchment.glue
from aws.account import AwsAccount
from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.config import CatalogConfig, LakehouseConfig
from pipelines import iceberg_writer as writer

TRANSACTIONS = 9


@pytest.fixture
def lakehouse(aws: AwsAccount, monkeypatch: pytest.MonkeyPatch) -> LakehouseConfig:
    bucket = f"lake-{aws.number}"
    aws.client("s3").create_bucket(Bucket=bucket)
    catalog = CatalogConfig(type="glue", warehouse=f"s3://{bucket}/lake")
    found = LakehouseConfig(catalog=catalog, maintenance=writer.NO_MAINTENANCE)
    monkeypatch.setattr(writer, "lakehouse", lambda uri=None: found)
    return found


def test_a_pipeline_into_glue_goes_on_where_it_was_with_each_change_once(
    lakehouse: LakehouseConfig, tmp_path: Path
) -> None:
    writer.main(tmp_path, 4, None)
    writer.main(tmp_path, TRANSACTIONS, None)
    for name in ("odd", "even", "both"):
        assert writer.rows(tmp_path, name) == writer.expected(name, TRANSACTIONS), name
    ids = sorted({n for n, _ in writer.expected("both", TRANSACTIONS)})
    with catchment.glue.connect("silver", cache=tmp_path / "kept") as silver:
        assert [n for (n,) in silver.execute("SELECT id FROM both ORDER BY id").fetchall()] == ids
        assert silver.refresh().fetched == 0
        writer.main(tmp_path, TRANSACTIONS + 3, None)
        assert silver.refresh().fetched == 1
        assert silver.execute("SELECT COUNT(*), MAX(_committed_at) > TIMESTAMP '2023-01-01' FROM both").fetchall() == [
            (len(ids) + 3, True)
        ]
        bronze = "SELECT b.after.id, b.before, _op FROM bronze.both AS b ORDER BY 1 DESC LIMIT 1"
        assert silver.execute(bronze).fetchall() == [(TRANSACTIONS + 2, None, "c")]


def test_commits_that_race_lose_nothing_that_was_acknowledged(lakehouse: LakehouseConfig, tmp_path: Path) -> None:
    catalog = load_catalog(lakehouse.catalog, tmp_path)
    catalog.create_namespace("race")
    catalog.create_table("race.t", schema=pa.schema([("n", pa.int64())]))
    acknowledged: list[int] = []

    def append(n: int) -> None:
        try:
            load_catalog(lakehouse.catalog, tmp_path).load_table("race.t").append(pa.table({"n": [n]}))
        except CommitFailedException:
            return
        acknowledged.append(n)

    threads = [threading.Thread(target=append, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert acknowledged
    found = catalog.load_table("race.t").scan().to_arrow().column("n").to_pylist()
    assert sorted(found) == sorted(acknowledged)
