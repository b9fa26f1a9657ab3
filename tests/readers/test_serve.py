"""`catchment serve` as people use it: what it prints is pasted into readers, also while a pipeline writes."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pyarrow as pa
import pytest

from pipelines.bronze_lake import BronzeLake
from pipelines.lake import COMMAND, end, query, run, start, write_pipeline
from pipelines.workload import Workload, set_up
from readers.process import ReaderError
from readers.scans import Scans
from readers.spark import Spark
from seeds import first_seed
from waiting import wait_for

NOT_RUN = """\
name: shop
source: {type: postgres, dsn: "host=127.0.0.1 port=1 dbname=none", tables: [public.*]}
sinks:
  - {type: iceberg}
"""


@contextmanager
def served(pipeline: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`catchment serve` on a free port, and the first line that it prints."""
    process = subprocess.Popen(
        [*COMMAND, "serve", str(pipeline), "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline()
    except BaseException as error:
        process.kill()
        error.add_note(f"the server said: {process.communicate()[1]}")
        raise
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def lake(tmp_path: Path) -> BronzeLake:
    """A lake beside a pipeline.yaml that does not run."""
    (tmp_path / "pipeline.yaml").write_text(NOT_RUN)
    lake = BronzeLake(tmp_path)
    lake.create("orders")
    lake.append("orders", {"id": 1, "city": "Oslo"}, {"id": 2, "city": "Bergen"})
    return lake


def blocks(text: str) -> dict[str, str]:
    """What is to be pasted, by the reader it is for."""
    parts = [part.partition("\n") for part in text.strip().split("\n\n")]
    return {head: dedent(body) for head, _, body in parts}


def test_what_it_prints_can_be_pasted(lake: BronzeLake, scans: Scans) -> None:
    with served(lake.directory / "pipeline.yaml") as (process, first):
        assert first.startswith("The lake of shop is open for reading at http://127.0.0.1:")
        assert process.stdout is not None
        lines = []
        while not (line := process.stdout.readline()).lstrip().startswith("polars"):
            assert line, "it has ended"
            lines.append(line)
        found = blocks("".join(lines))
        assert set(found) == {"DuckDB", "Spark 4.1", "PyIceberg, Polars"}
        install, *statements = found["DuckDB"].splitlines()
        assert install == "INSTALL iceberg; LOAD iceberg;"  # from the network: the fixture has loaded it from PyPI
        rows = [scans.duckdb(statement) for statement in statements][-1]
        scans.duckdb("DETACH lake")
        assert rows.num_rows == 2
        scope: dict[str, Any] = {}
        exec(found["PyIceberg, Polars"], scope)  # noqa: S102 - that is what it is printed for
        assert scope["table"].scan().to_arrow().num_rows == 2


def test_a_lake_without_tables_is_served_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text(NOT_RUN)
    with served(tmp_path / "pipeline.yaml") as (_, first):
        assert first.endswith("It has no tables yet: catchment run fills it.\n")


def test_the_lines_for_spark_open_the_lake(lake: BronzeLake, spark: Spark) -> None:
    with served(lake.directory / "pipeline.yaml") as (process, _):
        assert process.stdout is not None
        text = ""
        while "SELECT" not in text:
            text += (line := process.stdout.readline())
            assert line, "it has ended"
        options = [word for word in text.split() if word.startswith("spark.sql.catalog.lake")]
        spark.set(dict(option.split("=", 1) for option in options))
        statement = text.splitlines()[-1].strip().rstrip(";")
        assert spark.sql(statement).num_rows == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_even_with_an_open_connection(lake: BronzeLake, number: signal.Signals) -> None:
    from http.client import HTTPConnection

    with served(lake.directory / "pipeline.yaml", "--json") as (process, line):
        told = json.loads(line)
        assert told["pipeline"] == "shop" and told["read_only"] is True
        with closing(HTTPConnection(told["uri"].removeprefix("http://"), timeout=60)) as connection:
            connection.request("GET", "/v1/config")
            assert connection.getresponse().read()
            process.send_signal(number)
            out, err = process.communicate(timeout=120)
        assert (process.returncode, out, err) == (0, "", "")


def test_a_port_in_use_is_one_sentence(lake: BronzeLake) -> None:
    with served(lake.directory / "pipeline.yaml", "--json") as (_, line):
        port = json.loads(line)["uri"].rpartition(":")[2]
        done = run("serve", str(lake.directory / "pipeline.yaml"), "--port", port)
    assert done.returncode == 2
    assert done.stderr.strip() == f"catchment: Port {port} is in use. Choose another with --port; 0 picks a free one."


def test_nobody_writes_through_it(lake: BronzeLake, spark: Spark, scans: Scans) -> None:
    before = lake.catalog.load_table("bronze.orders").metadata_location
    with served(lake.directory / "pipeline.yaml", "--json") as (_, line):
        uri = json.loads(line)["uri"]
        spark.attach("closed", uri)
        scans.attach("closed", uri)
        for statement in (
            "INSERT INTO closed.bronze.orders SELECT * FROM closed.bronze.orders",
            "CREATE TABLE closed.bronze.mine (a int)",
            "DROP TABLE closed.bronze.orders",
            "DELETE FROM closed.bronze.orders",
        ):
            with pytest.raises(ReaderError):
                spark.sql(statement)
            with pytest.raises(ReaderError):
                scans.duckdb(statement)
        scans.duckdb("DETACH closed")
    assert lake.catalog.load_table("bronze.orders").metadata_location == before
    assert lake.catalog.list_tables("bronze") == [("bronze", "orders")]


def first(rows: pa.Table) -> tuple[Any, ...]:
    return tuple(rows.to_pylist()[0].values())


def count(pipeline: Path) -> int:
    return int(query(pipeline, "SELECT count(*) FROM bronze.accounts")[0][0])


def test_readers_open_the_lake_by_name_while_a_pipeline_writes(
    database_18: str, tmp_path: Path, spark: Spark, scans: Scans
) -> None:
    seed = first_seed()
    print(f"replay with CATCHMENT_SEED={seed}")
    set_up(database_18)
    pipeline = write_pipeline(tmp_path, database_18)
    running = start(pipeline)
    try:
        wait_for(lambda: query(pipeline, "SELECT 1 FROM bronze.accounts LIMIT 1"), "the first rows")
        with served(pipeline, "--json") as (_, line), Workload(database_18, seed):
            uri = json.loads(line)["uri"]
            scans.attach("live", uri)
            spark.attach("live", uri)
            seen = {"DuckDB": [0], "Spark": [0]}
            changes = "SELECT count(*) AS n, count(DISTINCT (_lane, _position)) AS m FROM live.bronze.accounts"
            keys = "SELECT count(*) AS n, count(DISTINCT id) AS m FROM live.silver.accounts"
            for _ in range(3):
                # More is to be seen each time, of a table that is written to at this moment.
                last = max(seen["DuckDB"][-1], seen["Spark"][-1])
                wait_for(lambda last=last: count(pipeline) > last + 20, "more changes in the lake")  # type: ignore[misc]
                for name, ask in (("DuckDB", scans.duckdb), ("Spark", spark.sql)):
                    rows, places = first(ask(changes))
                    assert rows == places, name
                    seen[name].append(rows)
                    rows, distinct = first(ask(keys))
                    assert rows == distinct, f"{name}: a key is there twice"
            assert running.poll() is None
            for counts in seen.values():
                assert counts == sorted(counts) and counts[-1] > counts[1]
            scans.duckdb("DETACH live")
    finally:
        err = end(running)
    assert running.returncode == 0, err
