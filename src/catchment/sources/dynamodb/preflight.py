"""Asked from outside: would capture work, what is there, what is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from catchment.aws_client import aws_client
from catchment.aws_errors import translated
from catchment.errors import ConfigError, SourceRefused
from catchment.finding import Finding, error, ok, warning
from catchment.sources.administration import Removal, Retention
from catchment.sources.dynamodb.config import DynamoDbSourceConfig
from catchment.sources.dynamodb.stream import DynamoDbStream
from catchment.sources.dynamodb.table import NAMESPACE, DynamoDbTable, describe_table

LOOKED_AT = 100
"""How many items of a table are looked at to find its attributes, which nothing else says."""
RETENTION_NOTE = "DynamoDB keeps changes for 24 hours, whether they were read or not: nothing at the source grows."


def check(config: DynamoDbSourceConfig) -> list[Finding]:
    """Each table, its stream, and whether that may be read."""
    client = aws_client("dynamodb", config.region)
    findings = []
    for name in config.tables:
        subject = f"table {name}"
        try:
            table = describe_table(client, name)
            findings.append(_check_table(config, table, subject))
        except SourceRefused as refused:
            findings.append(error(subject, str(refused)))
    unknown = sorted(set(config.column_types) - set(config.tables))
    if unknown:
        findings.append(warning("columns", f"`source.columns` names {', '.join(unknown)}, not in `source.tables`."))
    return findings


def _check_table(config: DynamoDbSourceConfig, table: DynamoDbTable, subject: str) -> Finding:
    if (obstacle := table.obstacle()) is not None or table.label is None:
        why, remedy = obstacle or (f"Table {table.name} has no stream.", None)
        return error(subject, why, remedy)
    shards = DynamoDbStream(table.stream_arn(table.label), config.region).shards()
    said = f"About {table.items:,} items; stream {table.label} with {table.view_type}, {len(shards)} shards."
    if table.view_type == "NEW_IMAGE":
        return warning(subject, f"{said} Without old images: `before` has the key only.")
    return ok(subject, said)


def columns(config: DynamoDbSourceConfig) -> Mapping[str, Sequence[str]]:
    """The tables with the attributes of their keys, those that are declared, and those of some items."""
    client = aws_client("dynamodb", config.region)
    found = {}
    for name in config.tables:
        known = [*describe_table(client, name).key, *config.column_types.get(name, {})]
        with translated(f"looking into table {name}"):
            items = client.scan(TableName=name, Limit=LOOKED_AT)["Items"]
        attributes = sorted({attribute for item in items for attribute in item})
        found[f"{NAMESPACE}.{name}"] = list(dict.fromkeys([*known, *attributes]))
    return found


def removal(config: DynamoDbSourceConfig, table: str | None) -> Removal:
    """Nothing: a reader leaves nothing at DynamoDB. Raises ConfigError for a table that is not captured."""
    names = {one for name in config.tables for one in (name, f"{NAMESPACE}.{name}")}
    if table is not None and table not in names:
        raise ConfigError(f"`{table}` is none of the tables in `source.tables`: {', '.join(config.tables)}.")
    notes = ["The pipeline left nothing at DynamoDB: a stream knows no readers. What was captured stays in the lake."]
    if table is not None:
        notes.append(f"The pipeline file still names {table}: take it out of `source.tables`.")
    return Removal([], notes, list)


def retention(config: DynamoDbSourceConfig) -> Retention:
    """How the streams are; what they keep does not depend on us."""
    client = aws_client("dynamodb", config.region)
    tables = [describe_table(client, name) for name in config.tables]
    obstacles = [found[0] for table in tables if (found := table.obstacle()) is not None]
    labels = ", ".join(f"stream {table.label} of {table.name}" for table in tables if table.label is not None)
    return Retention("missing" if obstacles else "ready", position=labels or None, notes=[*obstacles, RETENTION_NOTE])
