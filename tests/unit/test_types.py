"""Texts that a type cannot hold are kept as text; nothing stops for them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from catchment.sources.postgres.types import logical_type


@pytest.mark.parametrize(
    ("oid", "typmod", "texts", "values", "bad"),
    [
        (20, -1, ["1", "9223372036854775808", None, "x"], [1, None, None, None], [False, True, False, True]),
        (701, -1, ["0.5", "wide"], [0.5, None], [False, True]),
        (1700, (10 << 16 | 2) + 4, ["1.25", "NaN"], ["1.25", None], [False, True]),
        (1082, -1, ["2026-11-20", "infinity", "0044-03-15 BC"], [20777, None, -735160], [False, True, False]),
    ],
)
def test_what_a_type_cannot_hold_is_said(
    oid: int, typmod: int, texts: list[str | None], values: list[object], bad: list[bool]
) -> None:
    kind = logical_type(oid, typmod)
    held, lost = kind.from_text(pa.array(texts, pa.string()))
    assert lost is not None
    plain = held.cast(pa.string()) if pa.types.is_decimal(held.type) else held
    plain = plain.cast(pa.int32()) if pa.types.is_date(held.type) else plain
    assert plain.to_pylist() == values
    assert lost.to_pylist() == bad
