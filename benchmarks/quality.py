"""How fast are rows judged? The shop's orders against the shop's rules, one thread, batches as the merge has them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.resources import as_file, files

import numpy as np
import pyarrow as pa

from benchmarks.figure import Figure
from benchmarks.sizes import Sizes
from catchment.demo.postgres import EmbeddedPostgres
from catchment.quality.bitmask import RowRules
from catchment.quality.rules import load_rules

ROWS = 65_536
BATCHES = 20
BROKEN = 1_000
"""One row of so many breaks a rule."""


def quality(server: EmbeddedPostgres, sizes: Sizes) -> Iterator[Figure]:
    """Rows a second, from a batch of rows to each row's list of broken rules."""
    rows = _orders()
    with as_file(files("catchment.demo") / "quality.yaml") as path:
        rules = RowRules.compile(load_rules(path, {}).of("fact_sales"), rows.schema)
    best = float("inf")
    for _ in range(max(3, sizes.repeat)):
        started = time.perf_counter()
        for _ in range(BATCHES):
            labels = rules.labels(rules.evaluate(rows))
        best = min(best, time.perf_counter() - started)
    yield Figure(
        "rows judged by SQL bitmask, one thread",
        *(ROWS * BATCHES / best / 1e6, "M rows/s"),
        at_least=2.0,
        beside={"rules": len(rules.names), "rows a batch": ROWS, "broken in a batch": ROWS - labels.null_count},
    )
    rules.close()


def _orders() -> pa.Table:
    """Orders as the shop has them."""
    draw = np.random.default_rng(1)
    number = np.arange(ROWS)
    quantity = draw.integers(1, 6, ROWS)
    cents = draw.integers(100, 50_000, ROWS)
    total = np.where(number % BROKEN == 0, -1, quantity * cents)
    moment = pa.array(draw.integers(1_700_000_000_000_000, 1_760_000_000_000_000, ROWS)).cast(
        pa.timestamp("us", tz="UTC")
    )
    return pa.table(
        {
            "order_id": number,
            "user_id": draw.integers(1, 1_000, ROWS),
            "product_id": draw.integers(1, 200, ROWS),
            "quantity": quantity.astype(np.int32),
            "unit_price": _money(cents),
            "total_amount": _money(total),
            "status": np.array(["PENDING", "SHIPPED", "DELIVERED", "CANCELLED"])[draw.integers(0, 4, ROWS)],
            "payment_method": np.array(["card", "paypal", "transfer", "invoice"])[draw.integers(0, 4, ROWS)],
            "created_at": moment,
            "updated_at": moment,
            "_committed_at": moment,
            "_unrepresentable": pa.nulls(ROWS, pa.map_(pa.string(), pa.string())),
        }
    )


def _money(cents: np.ndarray[tuple[int], np.dtype[np.int64]]) -> pa.Array:
    """numeric(12,2), without a rounding on the way."""
    low = cents.astype(np.int64)
    words = np.stack([low, low >> 63], axis=1)
    return pa.Array.from_buffers(pa.decimal128(12, 2), len(cents), [None, pa.py_buffer(words.tobytes())])
