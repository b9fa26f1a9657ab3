"""The suite of sinks on the files sink, in both formats, with and without spilling to disk."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa
import pytest

from catchment.change import Operation
from catchment.component import BuildContext
from catchment.errors import LeaseHeld, SinkRefused, SinkUnavailable
from catchment.finding import Severity
from catchment.schema import Column, TableId, TableSchema
from catchment.sinks.files.config import FilesSinkConfig
from catchment.sinks.files.ranges import HINT_EVERY
from catchment.sinks.files.reader import complete_ranges
from catchment.sinks.files.sink import FilesSink
from catchment.sinks.files.store import LocalStore
from catchment.testing.changes import Change
from catchment.testing.scripted import Rows, ScriptedSystem, Transaction
from catchment.testing.sinks import (
    ITEMS,
    NOTES,
    SinkConformance,
    delivery,
    expect,
    held_changes,
    insert,
)
from conformance.files_harness import FilesHarness

HARNESSES: Mapping[str, Callable[[Path], FilesHarness]] = {
    "ndjson": lambda path: FilesHarness(path, "ndjson", "none"),
    "ndjson, zstd, files of 50 rows, everything spilled": lambda path: FilesHarness(
        path, "ndjson", "zstd", file_rows=50, buffer_bytes=0
    ),
    "parquet": lambda path: FilesHarness(path, "parquet", "zstd"),
    "parquet, files of 50 rows, 2 kB of memory": lambda path: FilesHarness(
        path, "parquet", "none", file_rows=50, buffer_bytes=2048
    ),
}


class TestFilesSink(SinkConformance):
    @pytest.fixture(params=HARNESSES)
    def harness(self, request: pytest.FixtureRequest, tmp_path: Path) -> FilesHarness:
        return HARNESSES[request.param](tmp_path / "out")


@pytest.mark.parametrize("format_", ["ndjson", "parquet"])
def test_gzip_comes_back_the_same(tmp_path: Path, format_: Literal["ndjson", "parquet"]) -> None:
    SinkConformance().test_a_script_arrives_whole_and_in_order(FilesHarness(tmp_path, format_, "gzip"))


def test_a_directory_of_another_pipeline_is_refused(tmp_path: Path) -> None:
    first, second = (FilesSink(LocalStore(tmp_path), pipeline=name) for name in ("shop", "warehouse"))
    first.open()
    first.close()
    with pytest.raises(SinkRefused, match="belongs to pipeline 'shop'"):
        second.open()
    second.close()
    first = FilesSink(LocalStore(tmp_path), pipeline="shop")
    first.open()
    first.close()


def test_the_refusal_of_a_second_writer_names_the_first(tmp_path: Path) -> None:
    first, second = (FilesSink(LocalStore(tmp_path), pipeline="shop") for _ in range(2))
    first.open()
    with pytest.raises(LeaseHeld, match=rf"pid {os.getpid()}\b"):
        second.open()
    second.close()
    first.close()


def test_what_cannot_be_written_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file, not a directory")
    sink = FilesSink(LocalStore(tmp_path / "out"), pipeline="shop")
    with pytest.raises((SinkRefused, SinkUnavailable), match="Cannot write"):
        sink.open()
    sink.close()


def test_a_full_disk_is_retriable_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    system = ScriptedSystem(insert("lane", ITEMS, *range(1, 2000)))
    harness = FilesHarness(tmp_path, "ndjson", "none")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))  # the kernel's own way to say that it is full
    try:
        with delivery(harness, system) as one:
            one.all()
            with pytest.raises(SinkUnavailable, match="Cannot write"):
                one.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.glob("public.*/*"))
    with delivery(harness, system) as one:
        one.all().flush()
    assert len(held_changes(harness, ITEMS)) == 1999


def test_duckdb_reads_the_lines(tmp_path: Path) -> None:
    system = ScriptedSystem(insert("lane", ITEMS, 1, 2, 3))
    with delivery(FilesHarness(tmp_path, "ndjson", "zstd"), system) as one:
        one.all().flush()
    lines = str(tmp_path / "public.items" / "*.ndjson.zst")
    found = duckdb.execute("SELECT op, after.id FROM read_json(?) ORDER BY position", [lines]).fetchall()
    assert found == [("c", 1), ("c", 2), ("c", 3)]


def test_names_that_differ_only_in_case_or_need_quoting_stay_apart(tmp_path: Path) -> None:
    names = ("id", "ID", "with 'quote'", 'with "quote"', "with\nnewline")
    columns = tuple(Column(name, pa.int64(), "bigint", key=name == "id") for name in names)
    schema = TableSchema(TableId("public", "a/b%c"), columns)
    after = {name: number for number, name in enumerate(names)}
    system = ScriptedSystem(Transaction("lane", Rows(schema, [Change(Operation.INSERT, after=after)])))
    harness = FilesHarness(tmp_path, "ndjson", "none")
    with delivery(harness, system) as one:
        one.all().flush()
    expect(harness, system, schema)
    assert (tmp_path / "public.a%2Fb%25c").is_dir()


def test_the_log_is_found_again_after_many_ranges(tmp_path: Path) -> None:
    harness = FilesHarness(tmp_path, "parquet", "none")
    system = ScriptedSystem()
    count = 2 * HINT_EVERY + 5
    with delivery(harness, system) as one:
        for number in range(count):
            system.append(insert("lane", NOTES, number))
            one.all().flush()
    with delivery(harness, system) as one:
        assert one.held == system.head()
    assert [one.number for one in complete_ranges(tmp_path)] == list(range(1, count + 1))
    assert [one.number for one in complete_ranges(tmp_path, after=count - 2)] == [count - 1, count]
    expect(harness, system)


def test_the_configuration_builds_a_sink_beside_the_pipeline_file(tmp_path: Path) -> None:
    config = FilesSinkConfig(type="files", path="out", format="parquet")
    context = BuildContext("shop", tmp_path)
    assert [one.severity for one in config.check(context)] == [Severity.OK]
    assert not (tmp_path / "out").exists()
    sink = config.build(context)
    assert sink.open() is None
    sink.close()
    assert (tmp_path / "out" / "_catchment" / "owner.json").is_file()
    assert [one.severity for one in config.check(BuildContext("other", tmp_path))] == [Severity.ERROR]
