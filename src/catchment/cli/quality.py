"""`catchment quality`: do the rules hold?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catchment.cli.arguments import AsJson, PipelinePath

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from catchment.config import PipelineConfig
    from catchment.quality.outcome import Suite
    from catchment.quality.results import Point
    from catchment.quality.rules import QualityRules


def quality(
    pipeline: PipelinePath,
    table: Annotated[
        str | None, typer.Option("--table", metavar="TABLE", help="Only this table's rules, by its name in the lake.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the report as one self-contained page.")
    ] = None,
    keys: Annotated[bool, typer.Option("--keys", help="Name some keys of the rows that break a rule.")] = False,
    source: Annotated[
        bool, typer.Option("--source", help="Judge the source's rows instead, before they are ingested.")
    ] = False,
    rows: Annotated[
        int, typer.Option("--rows", min=0, help="With --source: rows read of each table at most; 0 for all.")
    ] = 100_000,
    dqdl: Annotated[
        bool, typer.Option("--dqdl", help="Judge nothing; print the rules in AWS Glue's rule language.")
    ] = False,
    release: Annotated[
        str | None,
        typer.Option("--release", metavar="TABLE", help="Judge nothing; let this table's rows out of quarantine."),
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option("--key", metavar="KEY", help="With --release: only this row; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge the quality rules over the lake as it is now, and keep the results in ops.quality_results.

    Silver counts together with its quarantine. Never shows a value; keys only with --keys. Ends with 1 when a
    rule of severity `fail` is broken, which keeps gold as it is. With --source nothing is written anywhere, and
    rules about whole tables wait for the lake.

    --release moves rows into silver although they break a rule; the next change of such a row is judged anew. Ends
    with 1 when a --key is not in quarantine.
    """
    import json

    from catchment.cli.exits import FATAL
    from catchment.cli.quality_screen import show
    from catchment.config import load

    config = load(pipeline)
    if release is not None:
        _release(config, release, key, as_json=as_json)
        return
    rules = _rules(config, table)
    if dqdl:
        _print_dqdl(rules, as_json=as_json)
        return
    suite = (
        _judge_source(config, rules, rows or None, with_keys=keys) if source else _judge(config, rules, with_keys=keys)
    )
    if html is not None:
        _write_page(config, suite, html)
    if as_json:
        print(json.dumps(suite.to_dict(), indent=2, default=str))
    else:
        show(suite, html)
    if suite.stops_gold:
        raise typer.Exit(FATAL)


def _rules(config: PipelineConfig, table: str | None) -> QualityRules:
    from catchment.errors import ConfigError
    from catchment.quality.rules import QualityRules, load_rules

    if config.lakehouse.quality is None:
        raise ConfigError(
            f"{config.name} has no quality rules: write a quality.yaml and name it as `quality: quality.yaml` under "
            "`lakehouse`."
        )
    rules = load_rules(config.directory / config.lakehouse.quality)
    if table is None:
        return rules
    if table not in rules.tables:
        there = ", ".join(rules.tables) or "none"
        raise ConfigError(f"{rules.file.name} has no rules for a table {table}; there are: {there}.")
    return QualityRules(rules.file, {table: rules.tables[table]})


def _judge(config: PipelineConfig, rules: QualityRules, *, with_keys: bool) -> Suite:
    from catchment.errors import Fatal
    from catchment.lakehouse.ops import OpsStore
    from catchment.lakehouse.reading.connection import connect_lake
    from catchment.quality import results
    from catchment.quality.suite import run_suite

    ops = OpsStore.existing(config.lakehouse, config.directory)
    if ops is None:
        raise Fatal(f"{config.name} has never run, so there is nothing to judge. Begin with `catchment run`.")
    try:
        with connect_lake(config.lakehouse, config.directory, config.name) as connection:
            keys = _keys(config) if with_keys else None
            suite = run_suite(connection, rules, config.name, keys=keys)
        results.keep(ops, suite, results.COMMAND)
    finally:
        ops.close()
    return suite


def _judge_source(config: PipelineConfig, rules: QualityRules, rows: int | None, *, with_keys: bool) -> Suite:
    from catchment.errors import ConfigError
    from catchment.quality.before import judge_source
    from catchment.sinks.iceberg.bronze_table import bronze_name
    from catchment.sources.sample import Sampled

    source = config.source_config
    if not isinstance(source, Sampled):
        raise ConfigError(f"A source of type {source.type} cannot be looked into before it is captured.")
    samples = source.sample(config.context, lambda table: bronze_name(table)[-1] in rules.tables, rows)
    return judge_source(
        rules, config.name, samples, config.chain(), lambda table: bronze_name(table)[-1], with_keys=with_keys
    )


def _keys(config: PipelineConfig) -> Mapping[str, Sequence[str]]:
    """Table → its key's columns."""
    from contextlib import closing

    from catchment.lakehouse.catalog import load_catalog
    from catchment.lakehouse.properties import key_of
    from catchment.lakehouse.reading.moment import LakeReader

    with closing(load_catalog(config.lakehouse.catalog, config.directory)) as catalog:
        tables = LakeReader(catalog).tables(("bronze",))
    return {table.name: key_of(table.properties) for table in tables}


def _write_page(config: PipelineConfig, suite: Suite, file: Path) -> None:
    from catchment.errors import ConfigError
    from catchment.quality.report import page

    text = page(suite, _history(config) if suite.of == "lake" else {})
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}. Choose another file.") from error


def _history(config: PipelineConfig) -> Mapping[tuple[str, str], Sequence[Point]]:
    from catchment.lakehouse.ops import OpsStore
    from catchment.quality import results

    ops = OpsStore.open(config.lakehouse, config.directory)
    try:
        return results.history(ops, config.name)
    finally:
        ops.close()


def _release(config: PipelineConfig, table: str, keys: Sequence[str] | None, *, as_json: bool) -> None:
    import json

    from catchment.cli.asking import ask
    from catchment.cli.exits import FATAL
    from catchment.quality.outcome import counted

    outcome = ask(config, "release", {"table": table, "keys": keys or None})
    missing = outcome["not_in_quarantine"]
    if as_json:
        print(json.dumps({"pipeline": config.name, **outcome}, indent=2))
    else:
        print(f"{counted(outcome['released'], 'row')} of {outcome['table']} released.")
        if missing:
            print(f"Not in quarantine: {', '.join(missing)}.")
    if missing:
        raise typer.Exit(FATAL)


def _print_dqdl(rules: QualityRules, *, as_json: bool) -> None:
    import json

    from catchment.errors import ConfigError
    from catchment.quality.dqdl import rulesets

    found = rulesets(rules)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    if len(found) != 1:
        raise ConfigError(
            f"A ruleset of DQDL is about one table: add --table, or --json for all of them. There are: "
            f"{', '.join(found) or 'none'}."
        )
    print(next(iter(found.values())), end="")
