"""All checks of a pipeline: its files, its source, its transforms against the source's tables, its sinks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from catchment.config import PipelineConfig
from catchment.errors import CatchmentError, ConfigError, Retriable
from catchment.finding import Finding, error, ok, warning
from catchment.registry import Checked

if TYPE_CHECKING:
    from catchment.lakehouse.config import LakehouseConfig
    from catchment.lakehouse.gold.model import Model, Reference


def check_files(config: PipelineConfig) -> list[Finding]:
    """The pipeline file, which has been read, the gold models and the quality rules."""
    findings = [ok("file", f"Pipeline {config.name}: {config.source_config.type} to {_sinks(config)}.")]
    if config.lakehouse.gold is not None:
        from catchment.lakehouse.gold.model import load_models

        try:
            models = load_models(config.directory / config.lakehouse.gold)
            findings.append(ok("gold", _portability(models) if models else "No models yet."))
        except ConfigError as wrong:
            findings.append(error("gold", str(wrong)))
    return findings + _check_quality_file(config)


def _check_quality_file(config: PipelineConfig) -> list[Finding]:
    if config.lakehouse.quality is None:
        return []
    from catchment.quality.rules import load_rules

    try:
        rules = load_rules(config.directory / config.lakehouse.quality)
    except ConfigError as wrong:
        return [error("quality", str(wrong))]
    return [ok("quality", f"Rules for {', '.join(rules.tables)}." if rules.tables else "No rules yet.")]


def _portability(models: Sequence[Model]) -> str:
    from catchment.lakehouse.gold.dialect import Dialect, not_portable

    here = [model.name for model in models if not_portable(model, Dialect.SPARK)]
    said = f"Models: {', '.join(model.name for model in models)}."
    if not here:
        return f"{said} Spark runs them too."
    return f"{said} Not for Spark as they are (`catchment gold --dialect spark --print` says why): {', '.join(here)}."


def check_systems(config: PipelineConfig) -> tuple[list[Finding], bool]:
    """The source and the sinks; and whether one of them could not be asked."""
    findings, source_away = _check_source(config)
    sinks_away = False
    for sink in config.sink_configs:
        subject = f"sink {sink.name}"
        if not isinstance(sink, Checked):
            findings.append(ok(subject, "It has no check of its own."))
            continue
        try:
            findings += sink.check(config.context)
        except CatchmentError as refused:
            sinks_away |= isinstance(refused, Retriable)
            findings.append(error(subject, str(refused)))
    return findings, source_away or sinks_away


def _check_source(config: PipelineConfig) -> tuple[list[Finding], bool]:
    source = config.source_config
    try:
        findings = source.check(config.context)
        columns = source.columns(config.context)
    except CatchmentError as refused:
        return [error("source", str(refused))], isinstance(refused, Retriable)
    for transform in config.transform_configs:
        findings += transform.check_columns(columns)
    findings += _check_models(config, columns)
    findings += _check_rules(config, columns)
    findings += check_history(config.lakehouse, {_lake_name(table): there for table, there in columns.items()})
    return findings, False


def check_history(lakehouse: LakehouseConfig, columns: Mapping[str, Sequence[str]]) -> list[Finding]:
    """A warning for each entry of `lakehouse.history` that would keep nothing. columns: of the lake's tables."""
    found = []
    for one in lakehouse.history:
        table = next((name for name in columns if one == name or one.startswith(f"{name}.")), None)
        if table is None:
            said = "is no captured table" if "." not in one else "is no column of a captured table"
            # As the source calls it: other_schema.orders, public.orders.
            named = next((name for name in (one.replace(".", "_"), one.rpartition(".")[2]) if name in columns), None)
            meant = _meant(named or one.partition(".")[0], columns)
        elif one != table and one.removeprefix(f"{table}.") not in columns[table]:
            said, meant = f"is no column of {table}", _meant(one.removeprefix(f"{table}."), columns[table])
        elif lakehouse.silver is False or (isinstance(lakehouse.silver, list) and table not in lakehouse.silver):
            said, meant = f"needs {table} in `lakehouse.silver`", ""
        else:
            continue
        found.append(warning(f"history {one}", f"{one} {said}: no versions are kept for it.{meant}"))
    return found


def _meant(word: str, known: Iterable[str]) -> str:
    close = get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]}?" if close else ""


def _check_rules(config: PipelineConfig, columns: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Rules about tables and columns that are not captured."""
    if config.lakehouse.quality is None:
        return []
    from catchment.quality.preflight import check_rules
    from catchment.quality.rules import load_rules

    try:
        rules = load_rules(config.directory / config.lakehouse.quality)
    except ConfigError:
        return []  # told by check_files
    lake = {_lake_name(table): there for table, there in columns.items()}
    return check_rules(rules, lake, config.lakehouse.silver)


def _check_models(config: PipelineConfig, columns: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Gold models over tables that are not captured: they wait for them, perhaps for ever."""
    if config.lakehouse.gold is None:
        return []
    from catchment.lakehouse.gold.model import load_models

    try:
        models = load_models(config.directory / config.lakehouse.gold)
    except ConfigError:
        return []  # told by check_files
    tables = {_lake_name(name) for name in columns}
    found = []
    for model in models:
        missing = sorted({str(one) for one in model.references if not _is_made(one, tables, config.lakehouse)})
        if missing:
            found.append(
                warning(
                    f"gold {model.name}",
                    f"It reads {', '.join(missing)}, which is not captured or not kept: it waits until it is. Correct "
                    "the model, or `source.tables`, `lakehouse.silver`, `lakehouse.history`.",
                )
            )
    return found


def _is_made(reference: Reference, tables: Collection[str], lakehouse: LakehouseConfig) -> bool:
    """Will this pipeline make what a model reads, as far as its file and its source tell?"""
    from catchment.lakehouse.gold.model import QUARANTINE, SILVER_ENDINGS

    if reference.layer == "gold":
        return True
    kept = lakehouse.silver if isinstance(lakehouse.silver, list) else tables if lakehouse.silver else ()
    if reference.table in tables:
        return reference.layer != "silver" or reference.table in kept
    ending = next((one for one in SILVER_ENDINGS if reference.table.endswith(one)), "")
    base = reference.table.removesuffix(ending)
    if reference.layer != "silver" or not ending or base not in kept:
        return False
    if ending == QUARANTINE:
        return lakehouse.quality is not None
    return any(one.partition(".")[0] == base for one in lakehouse.history)


def _lake_name(table: str) -> str:
    """What the lake calls a source's table."""
    from catchment.schema import TableId
    from catchment.sinks.iceberg.bronze_table import bronze_name

    namespace, _, name = table.partition(".")
    return bronze_name(TableId(namespace, name))[-1]


def _sinks(config: PipelineConfig) -> str:
    return ", ".join(sink.name for sink in config.sink_configs)
