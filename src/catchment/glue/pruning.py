"""Which partitions a question needs: its conditions on partition columns, asked of DuckDB for each partition once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from catchment.glue import athena_sql
from catchment.glue.column_types import ColumnType, in_duckdb
from catchment.lakehouse.sql import identifier, literal

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from sqlglot import exp


class Pruning:
    """May a partition hold rows that are asked for? By its values that are known; True when in doubt.

    conditions: all must hold of a row; they speak of partition columns (`keys`) only.
    """

    def __init__(
        self, connection: DuckDBPyConnection, conditions: Sequence[exp.Expr], keys: Mapping[str, ColumnType]
    ) -> None:
        self._connection = connection
        self._conditions = [(athena_sql.columns_in(one), one.sql(dialect="duckdb")) for one in conditions]
        self._keys = keys
        self._answers: dict[tuple[tuple[str, str], ...], bool] = {}

    def __call__(self, values: Mapping[str, str]) -> bool:
        known = tuple(sorted(values.items()))
        if known not in self._answers:
            self._answers[known] = self._answer(values)
        return self._answers[known]

    def among(self, name: str, values: Sequence[str]) -> list[str]:
        """Those of a column's values that may be asked for, by one question to DuckDB."""
        import duckdb

        usable = [f"({text})" for columns, text in self._conditions if columns == {name}]
        if not usable:
            return list(values)
        column = f"CAST(told AS {in_duckdb(self._keys[name])}) AS {identifier(name)}"
        rows = f"SELECT told, {column} FROM (SELECT unnest($told) AS told)"
        try:
            found = self._connection.execute(
                f"SELECT told FROM ({rows}) WHERE {' AND '.join(usable)}", {"told": list(values)}
            )
        except duckdb.Error:
            return list(values)  # the question itself will tell what is wrong with it
        return [told for (told,) in found.fetchall()]

    def _answer(self, values: Mapping[str, str]) -> bool:
        import duckdb

        usable = [text for columns, text in self._conditions if columns <= values.keys()]
        if not usable:
            return True
        row = ", ".join(
            f"CAST({literal(value)} AS {in_duckdb(self._keys[name])}) AS {identifier(name)}"
            for name, value in values.items()
        )
        try:
            found = self._connection.execute(
                f"SELECT {' AND '.join(f'({text})' for text in usable)} FROM (SELECT {row})"
            )
        except duckdb.Error:
            return True  # the question itself will tell what is wrong with it
        answer = found.fetchone()
        return answer is None or (answer[0] is not False and answer[0] is not None)
