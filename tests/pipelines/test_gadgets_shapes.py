"""However the changes of the orders travel, the orders that come out are the table's: four ways, the same writes."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

import catchment
import catchment.glue
from aws.account import AwsAccount
from catchment.aws.local.firehose import Firehose
from catchment.aws.local.pipe import Pipe
from catchment.demo.gadget_orders import GadgetOrders, GenerationSummary, OrderChange
from catchment.demo.gadget_places import (
    DATABASE,
    PARTITION_KEY,
    STREAM,
    TABLE,
    delivery_stream,
    make_delivery,
    make_table,
)
from catchment.demo.gadgets_demo import ORDERS
from catchment.demo.gadgets_outcome import Order, asked_orders, compare_orders, scanned_orders
from catchment.glue.gadgets import ensure_gadgets
from pipelines.lake import run

EXAMPLES = Path(__file__).parents[2] / "examples" / "gadgets"
FILES_DATABASE = "gadgets_direct_db"

Way = Callable[[], list[Order]]
"""Carries what is there to its end, and gives the orders as a query sees them."""


def serverless(directory: Path, bucket: str) -> list[Order]:
    stop = threading.Event()
    Pipe(TABLE, STREAM, directory, partition_key=PARTITION_KEY).run(stop, idle_seconds=1)
    Firehose(delivery_stream(bucket), directory).run(stop, idle_seconds=1)
    with catchment.glue.connect(DATABASE, cache=directory / "cache") as lake:
        return asked_orders(lake.execute(ORDERS))


def catch_up(pipeline: Path) -> None:
    """`catchment run --until-caught-up`, which refreshes gold at its end."""
    done = run("run", str(pipeline), "--until-caught-up")
    assert done.returncode == 0, done.stderr


def direct(pipeline: Path) -> list[Order]:
    catch_up(pipeline)
    with catchment.connect(pipeline) as lake:
        return asked_orders(lake.execute(ORDERS.replace("gadget_sales", "gold.gadget_sales")))


def files(pipeline: Path) -> list[Order]:
    catch_up(pipeline)
    with catchment.glue.connect(FILES_DATABASE, cache=pipeline.parent / "cache") as lake:
        return asked_orders(lake.execute(ORDERS))


def example(name: str, directory: Path) -> Path:
    """An example's pipeline.yaml with its gold models, in a directory of its own."""
    directory.mkdir()
    shutil.copytree(EXAMPLES / "gold", directory / "gold")
    path = directory / "pipeline.yaml"
    path.write_text((EXAMPLES / name).read_text())
    return path


def with_files(path: Path, bucket: str) -> Path:
    """The direct example with its optional sink alone, into a bucket of the test's own: their names are everybody's."""
    lines = path.read_text().splitlines()
    optional = next(line for line in lines if "type: files" in line)
    kept = [line for line in lines if "type: iceberg" not in line and line != optional]
    path.write_text("\n".join([*kept, optional.replace("# -", "-").replace("gadget-sales-direct", bucket)]) + "\n")
    return path


def generate(orders: GadgetOrders, writes: int) -> GenerationSummary:
    """At least so many writes, however long they take."""
    enough, done = threading.Event(), 0

    def count(changes: Sequence[OrderChange]) -> None:
        nonlocal done
        done += len(changes)
        if done >= writes:
            enough.set()

    return orders.run_continuous_generation(rate=400, stop=enough, written=count)


@pytest.fixture
def ways(aws: AwsAccount, tmp_path: Path) -> dict[str, Way]:
    make_table()
    delivered, filed_in = f"delivered-{aws.number}", f"filed-{aws.number}"
    make_delivery(delivered)
    aws.client("s3").create_bucket(Bucket=filed_in)
    ensure_gadgets(f"s3://{filed_in}/", database=FILES_DATABASE, first_hour=datetime.now(UTC))
    (tmp_path / "serverless").mkdir()
    streamed = example("direct.yaml", tmp_path / "direct")
    filed = with_files(example("direct.yaml", tmp_path / "files"), filed_in)
    piped = example("kinesis.yaml", tmp_path / "kinesis")
    return {
        "serverless": lambda: serverless(tmp_path / "serverless", delivered),
        "direct": lambda: direct(streamed),
        "files": lambda: files(filed),
        "kinesis": lambda: direct(piped),
    }


def test_all_ways_end_with_the_orders_of_the_table_and_go_on_from_there(ways: dict[str, Way]) -> None:
    orders = GadgetOrders(TABLE, seed=11)
    for _ in range(2):
        summary = generate(orders, 200)
        assert set(summary.kinds) == {"insert", "modify", "remove"}
        table = scanned_orders(TABLE)
        assert len(table) > 20
        for name, way in ways.items():
            compared = compare_orders(table, way())
            assert compared.equal, (name, compared)
