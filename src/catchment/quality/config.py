"""quality.yaml: the rules of each table.

::

    tables:
      fact_sales:
        - {type: not_null, columns: [user_id, product_id]}
        - {type: range, column: total_amount, min: 0, severity: quarantine}
        - {type: relationship, column: user_id, to: dim_users.user_id}

A table is named as in the lake. These models say what may stand in the file; `rules` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from enum import StrEnum
from math import isfinite
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AliasChoices, BeforeValidator, Field, SerializeAsAny, field_validator, model_validator
from pydantic_core import PydanticCustomError

from catchment.component import ComponentConfig
from catchment.document_errors import WRONG_TYPE


class Severity(StrEnum):
    """What a broken rule leads to.

    flag: it is told, and rows that break it are marked in `_quality`. quarantine: such a row is kept out of silver.
    fail: gold stays as it is until the rule holds again. None of them stops capture.
    """

    FLAG = "flag"
    QUARANTINE = "quarantine"
    FAIL = "fail"


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


ColumnName = Annotated[str, Field(min_length=1)]
Columns = Annotated[tuple[ColumnName, ...], BeforeValidator(_listed), Field(min_length=1)]
Scalar = bool | int | float | datetime | date | str


class RuleConfig(ComponentConfig):
    """What every rule has."""

    row_local: ClassVar[bool] = False
    """Is one row enough to judge it? Only then can it move a row."""

    type: str
    name: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_]*$", max_length=120)
    """What it is called in `_quality`, in reports and in logs; unique in its table. Made from type and column."""
    severity: Severity = Severity.FLAG
    """What a broken rule leads to: flag, quarantine (rules about one row only) or fail (stops gold)."""
    description: str | None = None
    """For people, in the report."""

    @field_validator("severity")
    @classmethod
    def _only_rows_are_moved(cls, severity: Severity) -> Severity:
        if severity is Severity.QUARANTINE and not cls.row_local:
            raise ValueError(
                "quarantine moves single rows, and this rule is about more than one row; choose flag or fail"
            )
        return severity

    def subject(self) -> tuple[str, ...]:
        """The columns it is about."""
        return ()


class RowRuleConfig(RuleConfig):
    """A rule that one row alone keeps or breaks."""

    row_local: ClassVar[bool] = True


class NotNull(RowRuleConfig):
    """The columns have a value. Each column is a rule of its own."""

    type: Literal["not_null"]
    columns: Columns = Field(validation_alias=AliasChoices("columns", "column"))

    @model_validator(mode="after")
    def _one_name_one_column(self) -> NotNull:
        if self.name is not None and len(self.columns) > 1:
            raise ValueError("each of several columns is a rule of its own: leave `name` out, or name one column")
        return self

    def subject(self) -> tuple[str, ...]:
        return self.columns


class AcceptedValues(RowRuleConfig):
    """The column has one of these values, or NULL."""

    type: Literal["accepted_values"]
    column: ColumnName
    values: tuple[Scalar, ...] = Field(min_length=1)

    @field_validator("values")
    @classmethod
    def _one_kind(cls, values: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
        if len({isinstance(value, bool) for value in values}) > 1:
            # YAML reads an unquoted NO, which may be Norway, as false.
            raise ValueError("YAML reads yes, no, on and off as true and false; put quotes around words")
        return values

    def subject(self) -> tuple[str, ...]:
        return (self.column,)


class Range(RowRuleConfig):
    """The column lies between bounds, or is NULL. NaN and infinity lie between none."""

    type: Literal["range"]
    column: ColumnName
    min: Scalar | None = None
    """The smallest value there may be."""
    max: Scalar | None = None
    """The largest value there may be."""
    above: Scalar | None = None
    """Values are larger than this."""
    below: Scalar | None = None
    """Values are smaller than this."""

    @property
    def bounds(self) -> dict[str, Scalar]:
        """Operator → bound."""
        given = {">=": self.min, "<=": self.max, ">": self.above, "<": self.below}
        return {operator: bound for operator, bound in given.items() if bound is not None}

    @model_validator(mode="after")
    def _bounded(self) -> Range:
        if not self.bounds:
            raise ValueError("a range needs one of `min`, `max`, `above`, `below`")
        if {">=", ">"} <= self.bounds.keys() or {"<=", "<"} <= self.bounds.keys():
            raise ValueError("give `min` or `above`, and `max` or `below`, not both of a pair")
        if any(isinstance(bound, bool) for bound in self.bounds.values()):
            raise ValueError("true and false are no bounds")
        if any(isinstance(bound, float) and not isfinite(bound) for bound in self.bounds.values()):
            raise ValueError("a bound is finite; leave it out if there is none")
        if self._is_empty():
            raise ValueError("nothing lies between these bounds: the lower one is above the upper one")
        return self

    def _is_empty(self) -> bool:
        lower, upper = (next((b for o, b in self.bounds.items() if o[0] == side), None) for side in "><")
        if isinstance(lower, int | float) and isinstance(upper, int | float):
            return lower > upper
        # Text may be a moment or a number in the column's own type, where another order holds.
        return type(lower) is type(upper) is date and lower > upper

    def subject(self) -> tuple[str, ...]:
        return (self.column,)


class Regex(RowRuleConfig):
    """The column's text as a whole matches a pattern (RE2's syntax), or is NULL."""

    type: Literal["regex"]
    column: ColumnName
    pattern: str = Field(min_length=1)

    def subject(self) -> tuple[str, ...]:
        return (self.column,)


class Expression(RowRuleConfig):
    """An expression over the columns of one row is true or NULL. An expression that fails is broken."""

    type: Literal["expression"]
    sql: str = Field(min_length=1)
    """DuckDB's SQL: `total_amount = quantity * unit_price`."""

    @model_validator(mode="after")
    def _named(self) -> Expression:
        if self.name is None:
            raise ValueError("an expression needs a `name`, by which people recognise what it says")
        return self


class Unique(RuleConfig):
    """No two rows have the same values in these columns. Rows with a NULL in one of them do not count."""

    type: Literal["unique"]
    columns: Columns = Field(validation_alias=AliasChoices("columns", "column"))

    def subject(self) -> tuple[str, ...]:
        return self.columns


class Relationship(RuleConfig):
    """Every value of the column is found in another table's column, or is NULL: there are no orphans."""

    type: Literal["relationship"]
    column: ColumnName
    to: str = Field(pattern=r"^[^.]+\.[^.]+$")
    """`table.column`."""

    @property
    def parent(self) -> tuple[str, str]:
        """Table and column."""
        table, _, column = self.to.partition(".")
        return table, column

    def subject(self) -> tuple[str, ...]:
        return (self.column,)


class RowCount(RuleConfig):
    """The table has so many rows."""

    type: Literal["row_count"]
    min: int | None = Field(default=None, ge=0)
    """At least so many."""
    max: int | None = Field(default=None, ge=0)
    """At most so many."""

    @model_validator(mode="after")
    def _bounded(self) -> RowCount:
        if self.min is None and self.max is None:
            raise ValueError("a row count needs `min`, `max` or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("`min` is above `max`")
        return self


class ColumnCount(RuleConfig):
    """The table has exactly so many columns of its source."""

    type: Literal["column_count"]
    equals: int = Field(ge=1)


class Freshness(RuleConfig):
    """The newest row is young enough."""

    type: Literal["freshness"]
    column: ColumnName = "_committed_at"
    """A date or a moment; by default when the source committed the newest change."""
    max_age_seconds: float = Field(gt=0)
    """How old the newest may be."""

    def subject(self) -> tuple[str, ...]:
        return (self.column,)


RULES: Mapping[str, type[RuleConfig]] = {
    "not_null": NotNull,
    "unique": Unique,
    "accepted_values": AcceptedValues,
    "range": Range,
    "regex": Regex,
    "relationship": Relationship,
    "expression": Expression,
    "row_count": RowCount,
    "column_count": ColumnCount,
    "freshness": Freshness,
}


def _given(rules: Any) -> Any:
    """A table whose rules are all commented out has none."""
    return [] if rules is None else rules


def _rule(value: Any) -> Any:
    """Validates a rule by the model that its `type` names."""
    if isinstance(value, RuleConfig):
        return value
    if not isinstance(value, Mapping):
        raise PydanticCustomError("rule", "a rule is a mapping with a `type`")
    type_ = value.get("type")
    if type_ is None:
        raise PydanticCustomError(WRONG_TYPE, f"missing; there are: {', '.join(RULES)}")
    model = RULES.get(str(type_))
    if model is None:
        raise PydanticCustomError(WRONG_TYPE, f"there is no rule of type `{type_}`; there are: {', '.join(RULES)}")
    return model.model_validate(value)


RuleSection = Annotated[SerializeAsAny[RuleConfig], BeforeValidator(_rule)]
RuleList = Annotated[list[RuleSection], BeforeValidator(_given)]


class QualityConfig(ComponentConfig):
    """A whole quality.yaml."""

    tables: dict[str, RuleList]
    """The rules of each table, by its name in the lake: `fact_sales`, `other_schema_orders`."""
