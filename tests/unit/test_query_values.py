"""Query results as text: nothing is rounded, cut off or lost."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from catchment.cli.results import write
from catchment.cli.values import exact


def printed(sql: str, format_: str = "json", limit: int = 100) -> str:
    text = io.StringIO()
    with duckdb.connect() as connection, redirect_stdout(text):
        connection.execute("SET TimeZone = 'UTC'")
        write(connection.execute(sql).to_arrow_reader(), format_, None, limit=limit)
    return text.getvalue()


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("NULL", None),
        ("true", True),
        ("9223372036854775807::BIGINT", 2**63 - 1),
        ("170141183460469231731687303715884105727::HUGEINT", 2**127 - 1),
        ("(SELECT sum(i) FROM range(5) r(i))", 10),
        ("12.50::DECIMAL(9,2)", "12.50"),
        ("99999999999999999999999999999999999.999::DECIMAL(38,3)", "99999999999999999999999999999999999.999"),
        ("0.1::DOUBLE", 0.1),
        ("'NaN'::DOUBLE", "NaN"),
        ("'-Infinity'::DOUBLE", "-Infinity"),
        ("'zoë \"quoted\"'", 'zoë "quoted"'),
        ("''", ""),
        ("'\\x00\\xFF'::BLOB", "00ff"),
        ("DATE '2024-05-01'", "2024-05-01"),
        ("DATE '0044-03-15 (BC)'", "-000043-03-15"),
        ("TIMESTAMP '2024-05-01 12:00:00.000005'", "2024-05-01T12:00:00.000005"),
        ("TIMESTAMP '290000-01-01 00:00:00'", "+290000-01-01T00:00:00.000000"),
        ("TIMESTAMPTZ '2024-05-01 14:00:00+02'", "2024-05-01T12:00:00.000000Z"),
        ("TIMESTAMP_NS '2024-05-01 12:00:00.000000007'", "2024-05-01T12:00:00.000000007"),
        ("TIMESTAMP_S '2024-05-01 12:00:00'", "2024-05-01T12:00:00.000000"),
        ("'infinity'::TIMESTAMP", "infinity"),
        ("'-infinity'::TIMESTAMPTZ", "-infinity"),
        ("TIME '10:00:00.5'", "10:00:00.500000"),
        ("[1, NULL, 3]", [1, None, 3]),
        ("[]::INT[]", []),
        ("[[1.5::DECIMAL(3,1)], NULL]", [["1.5"], None]),
        ("[1, 2]::INT[2]", [1, 2]),
        ("{'a': 1.5::DECIMAL(3,1), 'b': {'c': DATE '2024-05-01'}}", {"a": "1.5", "b": {"c": "2024-05-01"}}),
        ("MAP {'a': 1.5::DECIMAL(3,1)}", {"a": "1.5"}),
        ("MAP {1: 'x'}", [[1, "x"]]),
        ("'x'::ENUM ('x', 'y')", "x"),
        ("'6f0ac3f6-6f5b-4cf5-a3c3-0c1d4e2b8a11'::UUID", "6f0ac3f6-6f5b-4cf5-a3c3-0c1d4e2b8a11"),
    ],
)
def test_a_value_is_printed_without_loss(sql: str, value: Any) -> None:
    rows = json.loads(printed(f"SELECT {sql} AS v UNION ALL SELECT NULL"))
    assert {"v": None} in rows
    assert sorted([row["v"] for row in rows if row["v"] is not None], key=str) == ([] if value is None else [value])


def test_slices_of_nested_arrays_keep_their_own_values() -> None:
    values = [[1], None, [2, 3], [], [4]]
    lists = pa.array(values, pa.list_(pa.int64()))
    structs = pa.array([{"a": 1}, None, {"a": None}, {"a": 4}])
    maps = pa.array([[("a", 1)], None, [("b", 2), ("c", 3)], []], pa.map_(pa.string(), pa.int64()))
    for start in range(4):
        assert exact(lists.slice(start)) == values[start:]
        assert exact(structs.slice(start)) == structs.slice(start).to_pylist()
        assert exact(maps.slice(start)) == [{"a": 1}, None, {"b": 2, "c": 3}, {}][start:]


def test_columns_of_one_name_are_all_kept() -> None:
    assert json.loads(printed("SELECT 1 AS a, 2 AS a, 3 AS a_2, 4 AS a")) == [{"a": 1, "a_2": 2, "a_2_2": 3, "a_3": 4}]


def test_nothing_found_is_an_empty_list() -> None:
    assert json.loads(printed("SELECT 1 AS a WHERE false")) == []


def test_many_batches_are_one_list() -> None:
    rows = json.loads(printed("SELECT range AS a FROM range(10000)"))
    assert [row["a"] for row in rows] == list(range(10_000))


def test_csv_quotes_what_needs_it_and_leaves_null_empty() -> None:
    assert printed("SELECT 'a,b' AS t, NULL AS n, '' AS e, true AS y, [1, 2] AS l", "csv") == (
        't,n,e,y,l\n"a,b",,,true,"[1, 2]"\n'
    )


def test_a_table_shows_the_first_rows_in_full_width() -> None:
    text = printed("SELECT repeat('x', 300) AS wide, range AS n FROM range(5)", "table", limit=2)
    assert "x" * 300 in text
    assert text.count("xxx" * 100) == 2
