"""Tables that are made from the code. A page holds them between markers; `python -m docs --write` renews them.

<!-- made from the code: exit-codes -->
…
<!-- end -->
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from catchment import registry
from catchment.aws.local.delivery_stream import DeliveryStreamConfig
from catchment.component import ComponentConfig
from catchment.config import PipelineConfig, TelemetryConfig
from catchment.lakehouse.config import CatalogConfig, LakehouseConfig, MaintenanceConfig
from docs.commands import Command, Parameter, commands
from docs.pages import Page

_BLOCK = re.compile(r"(<!-- made from the code: (?P<name>[^>]+?) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)
_NUMERICS = ((12, 2), (38, 0), (5, -2), (39, 0))


def made() -> Mapping[str, Callable[[], str]]:
    """Every table there is, by its name in the markers."""
    tables: dict[str, Callable[[], str]] = {
        "exit-codes": exit_codes,
        "types": types,
        "envelope": envelope,
        "gold-functions": gold_functions,
        "quality rules": quality_rules,
        "delivery stream": lambda: options(DeliveryStreamConfig),
    }
    for name, model in models().items():
        tables[f"options {name}"] = lambda model=model: options(model)  # type: ignore[misc]
    for command in commands().values():
        if not command.group:
            tables[command.name] = lambda command=command: parameters(command)  # type: ignore[misc]
    return tables


def used(page: Page) -> list[str]:
    """The names of the tables that a page holds."""
    return [match["name"] for match in _BLOCK.finditer(page.text)]


def renewed(page: Page) -> str:
    """The page's text with its tables as they should be. Raises KeyError for a table that nothing makes."""
    tables = made()

    def replacement(match: re.Match[str]) -> str:
        return f"{match[1]}\n{tables[match['name']]().strip()}\n\n{match[4]}"

    return _BLOCK.sub(replacement, page.text)


def models() -> dict[str, type[ComponentConfig]]:
    """The sections of pipeline.yaml, by how people call them."""
    found: dict[str, type[ComponentConfig]] = {
        "pipeline": PipelineConfig,
        "lakehouse": LakehouseConfig,
        "lakehouse.catalog": CatalogConfig,
        "lakehouse.maintenance": MaintenanceConfig,
        "telemetry": TelemetryConfig,
    }
    for kind, types_ in registry.BUILT_IN.items():
        for type_ in types_:
            model = registry.config_class(kind, type_)
            if model is not None:
                found[f"{kind} {type_}"] = model
    return found


def options(model: type[BaseModel]) -> str:
    """A table of a section's keys."""
    schema = model.model_json_schema()
    required = set(schema.get("required", ()))
    rows = []
    for name, field in schema["properties"].items():
        description = str(field.get("description") or _of_reference(field, schema))
        rows.append((f"`{name}`", _kind(field), _default(name, field, required), description.replace("\n", " ")))
    intro = inspect.getdoc(model) or ""
    return f"{intro}\n\n{table(('key', 'value', 'default', 'meaning'), rows)}"


def undocumented(model: type[BaseModel]) -> list[str]:
    """Keys without a word on what they mean."""
    schema = model.model_json_schema()
    return [
        name
        for name, field in schema["properties"].items()
        if not (field.get("description") or "const" in field or _of_reference(field, schema))
    ]


def _of_reference(field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    reference = str(field.get("$ref", "")).rpartition("/")[2]
    if reference:
        return str(schema["$defs"][reference].get("description", ""))
    return "Which of the kind it is." if "const" in field else ""


def _kind(field: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_kind(one) for one in field["anyOf"] if one.get("type") != "null")
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{one}`" for one in field["enum"])
    if "$ref" in field:
        return "section"
    if field["type"] == "array":
        items = _kind(field["items"])
        return "list of sections" if items == "section" else f"list of {items}"
    if field["type"] == "object":
        return f"name → {_kind(field['additionalProperties'])}"
    names = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`"}
    name = "path" if field.get("format") == "path" else names[field["type"]]
    limits = {"minimum": "≥", "maximum": "≤", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}
    bounds = ", ".join(f"{sign} {field[key]:,}" for key, sign in limits.items() if key in field)
    return f"{name}{', secret' if field.get('writeOnly') else ''}{f', {bounds}' if bounds else ''}"


def _default(name: str, field: Mapping[str, Any], required: set[str]) -> str:
    # A section is found by its `type`, whatever the model takes when it is made in Python.
    if name in required or "const" in field:
        return "required"
    default = field.get("default")
    if default is None or "$ref" in field:
        return ""
    return f"`{_text(default)}`"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def parameters(command: Command) -> str:
    """A table of a command's arguments and options."""
    rows = [(_names(one), _note(one), one.help) for one in command.parameters]
    return table(("", "default", "meaning"), rows) if rows else "It has no options of its own."


def _names(one: Parameter) -> str:
    value = f" {one.value}" if one.value else ""
    return ", ".join(f"`{name}{value if name == one.names[0] else ''}`" for name in one.names)


def _note(one: Parameter) -> str:
    return "required" if one.required else f"`{one.default}`" if one.default else ""


def quality_rules() -> str:
    """A table of the kinds of rules: what they promise and their own keys."""
    from catchment.quality.config import RULES, RuleConfig

    shared = set(RuleConfig.model_fields)
    rows = []
    for name, model in RULES.items():
        schema = model.model_json_schema()
        required = set(schema.get("required", ()))
        keys = [
            f"`{key}`" if key in required else f"`{key}` (optional)"
            for key in schema["properties"]
            if key not in shared
        ]
        rows.append((f"`{name}`", (inspect.getdoc(model) or "").replace("\n", " "), ", ".join(keys)))
    return table(("type", "holds when", "keys"), rows)


def exit_codes() -> str:
    """A table of exit codes."""
    from catchment.cli.exits import EXIT_CODES

    return table(("code", "meaning"), [(str(code), meaning) for code, meaning in EXIT_CODES.items()])


def gold_functions() -> str:
    """The functions that gold models may call in every engine."""
    from catchment.lakehouse.gold.portable import FUNCTIONS

    everywhere = ", ".join(f"`{name}`" for name, one in FUNCTIONS.items() if one.athena)
    spark = ", ".join(f"`{name}`" for name, one in FUNCTIONS.items() if not one.athena)
    return table(("in", "functions"), [("Spark and Athena", everywhere), ("Spark only", spark)])


def types() -> str:
    """A table of PostgreSQL's types and what the lake has for them."""
    import psycopg

    from catchment.lakehouse.table_schema import primitive
    from catchment.sources.postgres.types import _BY_OID, NUMERIC, logical_type

    known = psycopg.adapters.types
    kept: dict[str, list[str]] = {}
    for oid in _BY_OID:
        name = known[oid].regtype or known[oid].name
        kept.setdefault(str(primitive(logical_type(oid, -1).arrow)), []).append(f"`{name}`")
    rows = [(", ".join(names), f"`{lake}`") for lake, names in kept.items()]
    for precision, scale in _NUMERICS:
        arrow = logical_type(NUMERIC, (precision << 16 | scale & 0x7FF) + 4).arrow
        rows.append((f"`numeric({precision},{scale})`", f"`{primitive(arrow)}`"))
    rows.append(("`numeric` without a precision", f"`{primitive(logical_type(NUMERIC, -1).arrow)}`"))
    rows.append(("a domain", "what its base type has"))
    rows.append(("any other type", f"`{primitive(logical_type(0, -1).arrow)}`"))
    return table(("PostgreSQL", "Iceberg"), rows)


def envelope() -> str:
    """A table of a change's columns in bronze."""
    import pyarrow as pa

    from catchment.lakehouse.table_schema import fit
    from catchment.schema import envelope as columns

    meanings = {
        "_op": "`r` read by a snapshot, `c` insert, `u` update, `d` delete, `t` truncate",
        "_lane": "the ordered sub-stream it came from: slot, server and where the slot began",
        "_position": "where in that lane: commit LSN and ordinal in the transaction, 8 bytes each",
        "_version": "which change of a row wins; bytes that compare",
        "_transaction": "the transaction's id",
        "_committed_at": "when it was committed, UTC; NULL for snapshot rows",
        "_schema_version": "which version of the table's schema; `ops.schema_versions` has its columns",
        "_unchanged": "columns whose value PostgreSQL did not send, because the update left a large value as it was",
        "_unrepresentable": "column → PostgreSQL's text, for a value that the column's type cannot hold",
        "before": "the row before: the replica identity's columns, or all of them under `REPLICA IDENTITY FULL`",
        "after": "the row after; NULL for deletes and truncates",
    }
    schema = columns(pa.struct([pa.field("id", pa.int64())]))
    iceberg = fit(None, schema).schema
    rows = []
    for field in iceberg.fields:
        kind = "struct" if field.name in ("before", "after") else str(field.field_type)
        rows.append((f"`{field.name}`", f"`{kind}`", meanings[field.name]))
    return table(("column", "Iceberg", "meaning"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
