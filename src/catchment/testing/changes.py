"""Changes as plain Python values: to build batches from, to compare, and to fold into current rows."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from catchment.change import ChangeBatch, Operation
from catchment.schema import TableId, TableSchema

Row = Mapping[str, Any]
Key = tuple[Any, ...]

SEED_VARIABLE = "CATCHMENT_SEED"


@dataclass(frozen=True, slots=True)
class Change:
    """One change. What a script leaves out (lane, position, version, …) the scripted source fills in."""

    op: Operation
    before: Row | None = None
    after: Row | None = None
    unchanged: frozenset[str] = frozenset()
    unrepresentable: Mapping[str, str] = field(default_factory=dict)
    table: TableId | None = None
    lane: str = ""
    position: bytes = b""
    version: bytes = b""
    transaction: str | None = None
    committed_at: int | None = None
    schema_version: int = 1
    chunk: str | None = None

    def without_chunk(self) -> Change:
        """The change as a sink holds it: which chunk it came by is not kept."""
        return replace(self, chunk=None)


def make_batch(schema: TableSchema, lane: str, changes: Sequence[Change], chunk: str | None = None) -> ChangeBatch:
    """A batch that holds these changes as they are."""
    columns: dict[str, list[Any]] = {
        "_op": [c.op.value for c in changes],
        "_lane": [lane for _ in changes],
        "_position": [c.position for c in changes],
        "_version": [c.version or c.position for c in changes],
        "_transaction": [c.transaction for c in changes],
        "_committed_at": [c.committed_at for c in changes],
        "_schema_version": [schema.version for _ in changes],
        "_unchanged": [sorted(c.unchanged) or None for c in changes],
        "_unrepresentable": [sorted(c.unrepresentable.items()) or None for c in changes],
        "before": [c.before for c in changes],
        "after": [c.after for c in changes],
    }
    arrays = [pa.array(columns[one.name], one.type) for one in schema.envelope]
    return ChangeBatch(schema, lane, pa.RecordBatch.from_arrays(arrays, schema=schema.envelope), chunk)


def read_changes(table: TableId, rows: pa.RecordBatch | pa.Table, chunk: str | None = None) -> list[Change]:
    """The changes that an envelope holds, in its order. Values are made comparable: see `comparable`."""
    return [
        Change(
            op=Operation(row["_op"]),
            before=row["before"],
            after=row["after"],
            unchanged=frozenset(row["_unchanged"] or ()),
            unrepresentable=dict(row["_unrepresentable"] or ()),
            table=table,
            lane=row["_lane"],
            position=row["_position"],
            version=row["_version"],
            transaction=row["_transaction"],
            committed_at=row["_committed_at"],
            schema_version=row["_schema_version"],
            chunk=chunk,
        )
        for row in comparable(rows)
    ]


def comparable(rows: pa.RecordBatch | pa.Table) -> list[dict[str, Any]]:
    """Rows as Python values that are equal exactly when the Arrow values are the same.

    Timestamps and dates become integers (Python's end at year 9999), floats their text (NaN is NaN, -0.0
    is not 0.0), decimals keep their scale.
    """
    names = list(rows.schema.names)
    columns = []
    for name in names:
        column = rows.column(name)
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        columns.append(_comparable_values(array))
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _comparable_values(array: pa.Array) -> list[Any]:
    kind = array.type
    if pa.types.is_struct(kind):
        fields = [_comparable_values(child) for child in array.flatten()]
        names = [kind.field(i).name for i in range(kind.num_fields)]
        rows: Iterable[tuple[Any, ...]] = zip(*fields, strict=True) if fields else (() for _ in array)
        return [
            dict(zip(names, values, strict=True)) if valid else None
            for values, valid in zip(rows, array.is_valid().to_pylist(), strict=True)
        ]
    if pa.types.is_timestamp(kind):
        return list(array.cast(pa.timestamp("us")).cast(pa.int64()).to_pylist())
    if pa.types.is_date32(kind):
        return list(array.cast(pa.int32()).to_pylist())
    if pa.types.is_floating(kind):
        return [None if value is None else repr(value) for value in array.to_pylist()]
    if pa.types.is_decimal(kind):
        return [None if value is None else str(value) for value in array.to_pylist()]
    return list(array.to_pylist())


class CurrentRows:
    """The rows of one table after its changes: a plain model, to compare a system with.

    The higher version of a key wins, whatever order changes come in across lanes and snapshots, and a
    deleted key remembers its version.
    """

    def __init__(self, key: Sequence[str] = ("id",)) -> None:
        self._key = tuple(key)
        self._rows: dict[Key, dict[str, Any]] = {}
        self._versions: dict[Key, bytes] = {}
        self._truncated = b""

    def apply(self, changes: Iterable[Change]) -> CurrentRows:
        """Take these changes in."""
        for change in changes:
            self._apply(change)
        return self

    def rows(self) -> list[dict[str, Any]]:
        """The current rows, in the order of their keys."""
        return [self._rows[key] for key in sorted(self._rows)]

    def _apply(self, change: Change) -> None:
        if change.op is Operation.TRUNCATE:
            self._truncate(change.version)
            return
        new = self._key_of(change.after)
        old = self._key_of(change.before) or new
        assert old is not None, f"{change.op.name} of {change.table} carries no key"
        known = self._rows.get(old)
        if change.op is Operation.DELETE:
            self._remove(old, change.version)
            return
        assert new is not None, f"{change.op.name} of {change.table} carries no row"
        assert change.after is not None
        if old != new:
            self._remove(old, change.version)
        if change.version <= max(self._versions.get(new, b""), self._truncated):
            return
        row = dict(change.after)
        for column in change.unchanged:
            assert row[column] is None, f"{column} of {change.table} is unchanged and has a value"
            if known is not None:
                row[column] = known[column]
        self._rows[new] = row
        self._versions[new] = change.version

    def _remove(self, key: Key, version: bytes) -> None:
        if version > self._versions.get(key, b""):
            self._rows.pop(key, None)
            self._versions[key] = version

    def _truncate(self, version: bytes) -> None:
        self._truncated = max(self._truncated, version)
        for key in [key for key, at in self._versions.items() if at <= version]:
            self._rows.pop(key, None)

    def _key_of(self, row: Row | None) -> Key | None:
        return None if row is None else tuple(row[name] for name in self._key)


def replay_seed() -> int:
    """A random seed, or the one in `CATCHMENT_SEED`; printed, so that a failing test shows how to replay it."""
    seed = int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(2**32))
    print(f"replay with {SEED_VARIABLE}={seed}")
    return seed


class RandomChanges:
    """Random changes of one table, every one of which is possible after those before it.

    Inserts, updates, key updates, deletes, unchanged columns, and (when `truncates`) truncates. Keys start
    at `first_key`, so that several generators can share a table without sharing keys.
    """

    def __init__(self, schema: TableSchema, rng: random.Random, *, first_key: int = 1, truncates: bool = True) -> None:
        self.schema = schema
        self._rng = rng
        self._next_key = first_key
        self._truncates = truncates
        self._rows: dict[int, dict[str, Any]] = {}
        (self._key,) = schema.key

    def rows(self) -> list[dict[str, Any]]:
        """The current rows, in the order of their keys."""
        return [self._rows[key] for key in sorted(self._rows)]

    def changes(self, count: int) -> list[Change]:
        """The next `count` changes."""
        return [self._change() for _ in range(count)]

    def _change(self) -> Change:
        kinds, weights = ("insert", "update", "move", "delete", "truncate"), (40, 35, 8, 15, 2)
        kind = self._rng.choices(kinds, weights)[0] if self._rows else "insert"
        match kind:
            case "insert":
                return self._insert()
            case "update":
                return self._update()
            case "move":
                return self._move()
            case "truncate" if self._truncates:
                self._rows.clear()
                return Change(Operation.TRUNCATE)
            case _:
                return self._delete()

    def _new_key(self) -> int:
        self._next_key += 1
        return self._next_key - 1

    def _existing(self) -> int:
        return self._rng.choice(sorted(self._rows))

    def _insert(self) -> Change:
        row = self._row(self._new_key())
        self._rows[row[self._key]] = row
        return Change(Operation.INSERT, after=row)

    def _update(self) -> Change:
        key = self._existing()
        old, new = self._rows[key], self._row(key)
        others = [c.name for c in self.schema.columns if c.name != self._key]
        unchanged = frozenset(name for name in others if self._rng.random() < 0.2)
        sent = {name: None if name in unchanged else value for name, value in new.items()}
        self._rows[key] = {name: old[name] if name in unchanged else new[name] for name in new}
        return Change(Operation.UPDATE, after=sent, unchanged=unchanged)

    def _move(self) -> Change:
        old = self._existing()
        row = self._row(self._new_key())
        del self._rows[old]
        self._rows[row[self._key]] = row
        return Change(Operation.UPDATE, before=self._only_key(old), after=row)

    def _delete(self) -> Change:
        key = self._existing()
        del self._rows[key]
        return Change(Operation.DELETE, before=self._only_key(key))

    def _only_key(self, key: int) -> dict[str, Any]:
        return {c.name: key if c.name == self._key else None for c in self.schema.columns}

    def _row(self, key: int) -> dict[str, Any]:
        return {c.name: key if c.name == self._key else random_value(self._rng, c.type) for c in self.schema.columns}


def random_value(rng: random.Random, kind: pa.DataType) -> Any:
    """A value of this type; NULL one time in eight; often one at an edge of the type."""
    if rng.random() < 0.125:
        return None
    edges = list(edge_values(kind))
    if rng.random() < 0.25:
        return rng.choice(edges)
    if pa.types.is_string(kind):
        return "".join(rng.choice('abc é"\\\n\t{}日🎈') for _ in range(rng.randrange(20)))
    if pa.types.is_binary(kind):
        return rng.randbytes(rng.randrange(20))
    if pa.types.is_integer(kind):
        return rng.randrange(-1000, 1000)
    if pa.types.is_floating(kind):
        return float(rng.randrange(-1000, 1000)) / 8
    return rng.choice(edges)


def edge_values(kind: pa.DataType) -> Iterator[Any]:
    """The values at the edges of a column type, as `pyarrow.array` takes them."""
    if pa.types.is_boolean(kind):
        yield from (True, False)
    elif pa.types.is_integer(kind):
        limit = 2 ** (kind.bit_width - 1)
        yield from (0, -1, limit - 1, -limit)
    elif pa.types.is_floating(kind):
        yield from (0.0, -0.0, float("nan"), float("inf"), float("-inf"), 0.1 if kind.bit_width == 64 else 0.5)
        yield from (5e-324, 1.7976931348623157e308) if kind.bit_width == 64 else (2.0**-149, 2.0**127)
    elif pa.types.is_decimal(kind):
        yield from _edge_decimals(kind)
    elif pa.types.is_string(kind):
        yield from ("", " ", "null", '"', "\\", "line\nbreak\r\ttab", "\x01\x1f\x7f", "é 日本 🎈", "\u2028", "'{}[]")
    elif pa.types.is_binary(kind):
        yield from (b"", b"\x00", b"\xff\xfe\x00text", bytes(range(256)))
    elif pa.types.is_date32(kind):
        # Days since 1970: the epoch, before it, 0001-01-01, 9999-12-31, 12345-06-07, 44 BC.
        yield from (0, -1, -719162, 2932896, 3789742, -735160)
    elif pa.types.is_timestamp(kind):
        day = 86_400_000_000
        yield from (0, -1, 1_700_000_000_123_456, -719162 * day, 2932897 * day - 1, 3789742 * day + 1)
        yield -735160 * day - 1
    else:
        raise TypeError(f"{kind} is not one of the column types in catchment.schema.")


def _edge_decimals(kind: pa.DataType) -> Iterator[Any]:
    from decimal import Context, Decimal

    exact = Context(prec=kind.precision)
    unit = Decimal((0, (1,), -kind.scale))
    most = Decimal((0, (9,) * kind.precision, -kind.scale))
    yield from (Decimal((0, (0,), -kind.scale)), unit, exact.minus(unit), most, exact.minus(most))
