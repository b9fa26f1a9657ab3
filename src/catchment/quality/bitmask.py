"""The rules about single rows of one table as one SQL query: which of them each row breaks, as the bits of a word."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catchment.lakehouse.sql import identifier
from catchment.quality.condition import UNREPRESENTABLE, Unfit, broken, constants, resolved, types_of
from catchment.quality.config import Expression, Severity
from catchment.quality.expression import judge
from catchment.quality.rules import Rule, TableRules
from catchment.telemetry import LOGGER

log = logging.getLogger(LOGGER)

Bits = npt.NDArray[np.uint64]

LABELS = pa.list_(pa.string())

_UNREPRESENTABLE_TYPE = pa.map_(pa.string(), pa.string())


class RowRules:
    """Judges rows of one schema. One thread at a time.

    names: bit i of a row's word stands for the rule `names[i]`. quarantine_mask: the bits of the rules whose rows are
    kept out of silver. skipped: rules that this schema does not allow to judge → why; they have no bit.
    """

    def __init__(self, rules: Sequence[Rule], schema: pa.Schema, skipped: Mapping[str, str]) -> None:
        self.names = tuple(rule.name for rule in rules)
        self.quarantine_mask = sum(1 << bit for bit, rule in enumerate(rules) if rule.severity is Severity.QUARANTINE)
        self.skipped = dict(skipped)
        self._rules = tuple(rules)
        self._schema = schema
        self._columns = sorted({resolved(schema, name) for rule in rules for name in rule.columns()})
        self._may_keep_text = UNREPRESENTABLE in schema.names
        self._judge = judge() if rules else None
        self._plain = _query(rules, schema, kept_as_text=False)
        self._with_text = _query(rules, schema, kept_as_text=True)

    @classmethod
    def compile(cls, rules: TableRules, schema: pa.Schema) -> RowRules:
        """The row rules of a table, for rows with these columns (`_unrepresentable` among them, if rows have it).

        A rule whose column is missing, or of a type that it cannot judge, is skipped and logged, never an error:
        rules stop no capture.
        """
        kept: list[Rule] = []
        skipped: dict[str, str] = {}
        spellings: dict[str, str] = {}
        with judge() as connection:
            for rule in rules.row_rules:
                try:
                    fit(connection, rule, schema, spellings)
                except Unfit as reason:
                    skipped[rule.name] = str(reason)
                    log.warning("%s: rule %s of %s is not judged: %s.", rule.place, rule.name, rule.table, reason)
                else:
                    kept.append(rule)
        return cls(kept, schema, skipped)

    def evaluate(self, rows: pa.Table | pa.RecordBatch) -> Bits:
        """One word a row, in the rows' order: the bits of the rules that it breaks."""
        if self._judge is None or rows.num_rows == 0:
            return np.zeros(rows.num_rows, np.uint64)
        odd = self._may_keep_text and _has_any(rows.column(UNREPRESENTABLE))
        seen = rows.select([*self._columns, UNREPRESENTABLE] if odd else self._columns)
        self._judge.register("judged", seen)
        try:
            found = self._judge.execute(self._with_text if odd else self._plain).fetchnumpy()["bits"]
        finally:
            self._judge.unregister("judged")
        bits: Bits = np.ascontiguousarray(found, np.uint64)
        return bits

    def labels(self, bits: Bits) -> pa.ListArray:
        """The names of the rules that each row breaks; NULL where it breaks none."""
        broken_rows = np.flatnonzero(bits)
        if len(broken_rows) == 0:
            return pa.nulls(len(bits), LABELS)
        patterns, which = np.unique(bits[broken_rows], return_inverse=True)
        lists = pa.array([self.names_of(int(pattern)) for pattern in patterns], LABELS)
        at = np.zeros(len(bits), np.int32)
        at[broken_rows] = which
        taken: pa.ListArray = lists.take(pa.array(at, mask=bits == 0))
        return taken

    def names_of(self, word: int) -> list[str]:
        """The names that one word's bits stand for."""
        return [name for bit, name in enumerate(self.names) if word >> bit & 1]

    def close(self) -> None:
        """Let go of DuckDB."""
        if self._judge is not None:
            self._judge.close()


def fit(connection: duckdb.DuckDBPyConnection, rule: Rule, schema: pa.Schema, spellings: dict[str, str]) -> None:
    """Raise `Unfit` unless the rule can be judged on rows of this schema, together with those checked before."""
    types = types_of(rule.columns(), schema)
    names = list(dict.fromkeys(resolved(schema, name) for name in types))
    for name in names:
        if spellings.setdefault(name.lower(), name) != name:
            raise Unfit(f"{name} and {spellings[name.lower()]} differ in case only, which DuckDB does not tell apart")
    fields = [schema.field(name) for name in names] + [pa.field(UNREPRESENTABLE, _UNREPRESENTABLE_TYPE)]
    connection.register("judged", pa.schema(fields).empty_table())
    try:
        if isinstance(rule.check, Expression):
            kind = connection.execute(f"DESCRIBE SELECT (\n{rule.check.sql}\n) FROM judged").fetchall()[0][1]
            if kind != "BOOLEAN":
                raise Unfit(f"its expression gives {kind}, not true or false")
        if values := constants(rule.check, types):
            connection.execute(f"SELECT {', '.join(values)}").fetchall()
        for odd in (False, True):
            connection.execute(f"SELECT {broken(rule.check, types, kept_as_text=odd)} FROM judged").fetchall()
    except duckdb.Error as error:
        # The table is empty: the message can hold nothing but what stands in the file.
        raise Unfit(str(error).partition("\n")[0].rstrip(".")) from None
    finally:
        connection.unregister("judged")


def _query(rules: Sequence[Rule], schema: pa.Schema, *, kept_as_text: bool) -> str:
    words = [
        f"CASE WHEN {broken(rule.check, types_of(rule.columns(), schema), kept_as_text=kept_as_text)} "
        f"THEN {1 << bit}::UBIGINT ELSE 0::UBIGINT END"
        for bit, rule in enumerate(rules)
    ]
    return f"SELECT {' | '.join(words) or '0::UBIGINT'} AS {identifier('bits')} FROM judged"


def _has_any(column: pa.Array | pa.ChunkedArray) -> bool:
    return bool(column.null_count < len(column))
