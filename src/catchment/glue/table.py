"""A table of Glue's: read from what Glue answers, made and changed without losing what others put there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from catchment.aws_errors import error_code
from catchment.errors import SinkRefused, SinkUnavailable, SourceRefused
from catchment.glue.column_types import ColumnType, parse, widened
from catchment.glue.session import Client, asking
from catchment.glue.view import View, view_of

OPENX = "org.openx.data.jsonserde.JsonSerDe"
"""Of Athena's two SerDes for JSON the one that goes on: to Hive's, one attribute with another type, or one broken line,
fails every query for good. Both take decimals digit by digit, and `YYYY-MM-DD HH:MM:SS.mmm`. What OpenX makes of a
broken line is a row of NULLs: a view over such a table says which rows it wants."""

JSON_SERDES = frozenset({OPENX.lower(), "org.apache.hive.hcatalog.data.jsonserde"})
PARQUET_SERDE = "org.apache.hadoop.hive.ql.io.parquet.serde.parquethiveserde"
_TEXT_INPUT = "org.apache.hadoop.mapred.TextInputFormat"
_TEXT_OUTPUT = "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat"

_INPUT = [
    "Name",
    "Description",
    "Owner",
    "Retention",
    "StorageDescriptor",
    "PartitionKeys",
    "ViewOriginalText",
    "ViewExpandedText",
    "TableType",
    "Parameters",
    "TargetTable",
]
"""What UpdateTable takes of what GetTable gives."""

_ATTEMPTS = 30
_NUMBERS = frozenset({"tinyint", "smallint", "int", "bigint", "decimal", "float", "double"})


@dataclass(frozen=True)
class GlueTable:
    """What Glue says of a table. Names are in lower case, as Athena's are; `keys` are its partition columns."""

    database: str
    name: str
    columns: Mapping[str, ColumnType]
    keys: Mapping[str, ColumnType] = field(default_factory=dict)
    location: str = ""
    serde: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    view: View | None = None

    @property
    def full_name(self) -> str:
        return f"{self.database}.{self.name}"

    @property
    def is_iceberg(self) -> bool:
        return self.parameters.get("table_type", "").upper() == "ICEBERG"


def table_of(answer: Mapping[str, Any]) -> GlueTable:
    """Read a table as GetTable and GetTables give it. Raises ConfigError for column types that are unknown here."""
    storage = answer.get("StorageDescriptor") or {}
    return GlueTable(
        database=answer["DatabaseName"].lower(),
        name=answer["Name"].lower(),
        columns=columns_of(storage.get("Columns")),
        keys=columns_of(answer.get("PartitionKeys")),
        location=storage.get("Location") or "",
        serde=((storage.get("SerdeInfo") or {}).get("SerializationLibrary") or "").lower(),
        parameters=answer.get("Parameters") or {},
        view=view_of(answer),
    )


def columns_of(found: Sequence[Mapping[str, Any]] | None) -> dict[str, ColumnType]:
    return {
        column["Name"].lower(): parse(column.get("Type", "string"))
        for column in found or ()
        if (column.get("Parameters") or {}).get("iceberg.field.current") != "false"
    }


def find(glue: Client, database: str, name: str) -> Mapping[str, Any] | None:
    """What Glue has under this name, as it answers; None when there is nothing."""
    with asking(f"looking for Glue's table {database}.{name}"):
        try:
            answer: Mapping[str, Any] = glue.get_table(DatabaseName=database, Name=name)["Table"]
        except glue.exceptions.EntityNotFoundException:
            return None
    return answer


def tables_of(glue: Client, database: str) -> dict[str, Mapping[str, Any]]:
    """Everything in a database, by name. Raises SourceRefused when there is no such database."""
    found: dict[str, Mapping[str, Any]] = {}
    with asking(f"listing Glue's tables of {database}"):
        try:
            for page in glue.get_paginator("get_tables").paginate(DatabaseName=database):
                found |= {answer["Name"].lower(): answer for answer in page["TableList"]}
            if not found:
                glue.get_database(Name=database)  # a stand-in may have no tables of a database that is not there
        except glue.exceptions.EntityNotFoundException:
            raise SourceRefused(
                f"Glue has no database {database}. `catchment catalog sync --database {database} …` makes one; or "
                "check the region and the account."
            ) from None
    return found


def ensure_database(glue: Client, database: str) -> list[str]:
    """Make the database if it is not there; what was done, in words."""
    with asking(f"making Glue's database {database}"):
        try:
            glue.get_database(Name=database)
            return []
        except glue.exceptions.EntityNotFoundException:
            pass
        try:
            glue.create_database(DatabaseInput={"Name": database})
        except glue.exceptions.AlreadyExistsException:
            return []
    return [f"database {database} made"]


def external_json(table: GlueTable) -> dict[str, Any]:
    """The input with which Glue makes an external table of JSON lines."""
    return {
        "Name": table.name,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {"EXTERNAL": "TRUE", "classification": "json", **table.parameters},
        "PartitionKeys": described(table.keys),
        "StorageDescriptor": {
            "Columns": described(table.columns),
            "Location": table.location,
            "InputFormat": _TEXT_INPUT,
            "OutputFormat": _TEXT_OUTPUT,
            "SerdeInfo": {"SerializationLibrary": OPENX, "Parameters": {"ignore.malformed.json": "TRUE"}},
        },
    }


def described(columns: Mapping[str, ColumnType]) -> list[dict[str, str]]:
    return [{"Name": name, "Type": str(kind)} for name, kind in columns.items()]


Edit = Callable[[Mapping[str, Any] | None], tuple[dict[str, Any], list[str]]]
"""From what Glue has (None: nothing) to what it should have, and what that changes, in words."""


def ensure(glue: Client, database: str, wanted: Mapping[str, Any], *, dry_run: bool = False) -> list[str]:
    """Make a table or view, or bring it up to what is wanted; what was changed, in words.

    What others added stays: columns, parameters, a wider number type. Raises as `change` does, and SinkRefused when the
    partition columns are others, which Glue cannot change.
    """
    return change(glue, database, wanted["Name"], lambda found: _merged(found, wanted, database), dry_run=dry_run)


def change(glue: Client, database: str, name: str, edit: Edit, *, dry_run: bool = False) -> list[str]:
    """Change what Glue has under a name; what was changed, in words. Nothing is written when nothing changes.

    Changes that others make at the same time are kept: Glue takes an edit only of the version that it was made from,
    and it is made again from the next one. Raises SinkUnavailable when that goes on for too long.
    """
    for _ in range(_ATTEMPTS):
        found = find(glue, database, name)
        merged, changes = edit(found)
        if not changes or dry_run or _written(glue, database, merged, found):
            return changes
    raise SinkUnavailable(f"Others keep changing {database}.{name} in Glue. Try again when they are done.")


def input_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """Of what GetTable answered, what UpdateTable takes: nothing that is empty text."""
    return {key: found[key] for key in _INPUT if found.get(key) not in (None, "")}


def _written(glue: Client, database: str, merged: Mapping[str, Any], found: Mapping[str, Any] | None) -> bool:
    """Write it; False when somebody else was quicker."""
    name = f"{database}.{merged['Name']}"
    with asking(f"changing {name} in Glue"):
        try:
            if found is None:
                glue.create_table(DatabaseName=database, TableInput=merged)
            elif "VersionId" in found:
                glue.update_table(DatabaseName=database, TableInput=merged, VersionId=found["VersionId"])
            else:
                glue.update_table(DatabaseName=database, TableInput=merged)
        except (glue.exceptions.AlreadyExistsException, glue.exceptions.ConcurrentModificationException):
            return False
        except glue.exceptions.EntityNotFoundException:
            if found is None:
                raise SinkRefused(f"Glue has no database {database}; make it first.") from None
            return False
        except glue.exceptions.ClientError as error:
            if error_code(error) in ("VersionMismatchException", "ConcurrentModificationException"):
                return False
            raise
    return True


def _merged(
    found: Mapping[str, Any] | None, wanted: Mapping[str, Any], database: str
) -> tuple[dict[str, Any], list[str]]:
    """What to write, and what that changes."""
    name = f"{database}.{wanted['Name']}"
    is_view = "ViewOriginalText" in wanted
    if found is None:
        return dict(wanted), [f"{'view' if is_view else 'table'} {name} made"]
    merged = input_of(found)
    if is_view != (found.get("TableType") == "VIRTUAL_VIEW"):
        raise SinkRefused(f"{name} is {'no' if is_view else 'a'} view in Glue; drop it or choose another name.")
    if is_view:
        return _merged_view(merged, wanted, name)
    return _merged_table(merged, wanted, name)


def _merged_view(merged: dict[str, Any], wanted: Mapping[str, Any], name: str) -> tuple[dict[str, Any], list[str]]:
    before, after = view_of(merged), view_of(wanted)
    if before == after:
        return merged, []
    return {**merged, **wanted}, [f"view {name} has a new text"]


def _merged_table(merged: dict[str, Any], wanted: Mapping[str, Any], name: str) -> tuple[dict[str, Any], list[str]]:
    changes: list[str] = []
    if (theirs := columns_of(merged.get("PartitionKeys"))) != (ours := columns_of(wanted.get("PartitionKeys"))):
        raise SinkRefused(
            f"{name} is partitioned by {_list(theirs)} in Glue, not by {_list(ours)}, and Glue cannot change that. "
            "Drop the table (its data stays) or choose another name."
        )
    storage, described = dict(merged.get("StorageDescriptor") or {}), wanted["StorageDescriptor"]
    columns = columns_of(storage.get("Columns"))
    kept = list(storage.get("Columns") or ())
    for column in described["Columns"]:
        before, after = columns.get(column["Name"]), parse(column["Type"])
        if before is None:
            kept.append(column)
            changes.append(f"column {name}.{column['Name']} {after} added")
        elif before != after and not _is_wider_number(before, after):
            kept = [{**one, "Type": str(after)} if one["Name"].lower() == column["Name"] else one for one in kept]
            changes.append(f"column {name}.{column['Name']} is {after} now, was {before}")
    storage["Columns"] = kept
    for key in ("Location", "InputFormat", "OutputFormat"):
        if (storage.get(key) or "") != described[key]:
            storage[key] = described[key]
            changes.append(f"{key} of {name} is {described[key]} now")
    if _serde(storage) != _serde(described):
        storage["SerdeInfo"] = described["SerdeInfo"]
        changes.append(f"SerDe of {name} is {_serde(described)} now")
    merged["StorageDescriptor"] = storage
    parameters = dict(merged.get("Parameters") or {})
    for key, value in wanted["Parameters"].items():
        if key not in parameters:
            parameters[key] = value
            changes.append(f"parameter {key} of {name} is {value} now")
    merged["Parameters"] = parameters
    return merged, changes


def _is_wider_number(before: ColumnType, after: ColumnType) -> bool:
    return {before.name, after.name} <= _NUMBERS and widened(before, after) == before


def _serde(storage: Mapping[str, Any]) -> str:
    return str((storage.get("SerdeInfo") or {}).get("SerializationLibrary", ""))


def _list(columns: Mapping[str, ColumnType]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in columns.items()) or "nothing"
