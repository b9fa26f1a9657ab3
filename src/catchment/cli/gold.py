"""`catchment gold`: gold models refreshed now, or printed in the SQL of another engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catchment.cli.arguments import AsJson, PipelinePath
from catchment.lakehouse.gold.dialect import Dialect

if TYPE_CHECKING:
    from catchment.config import PipelineConfig
    from catchment.lakehouse.gold.landing import ModelStatus
    from catchment.lakehouse.gold.model import Model

ATTEMPTS = 5
"""A pipeline that runs refreshes gold as well: whoever comes second to a table tries again."""


def gold(
    pipeline: PipelinePath,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="NAME", help="Only this model, and the models it reads.")
    ] = None,
    dialect: Annotated[
        Dialect | None,
        typer.Option("--dialect", help="With --print: in the SQL of this engine.", show_default="duckdb"),
    ] = None,
    print_: Annotated[bool, typer.Option("--print", help="Print the models' SQL, and refresh nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring gold models up to date now, or print them in the SQL of another engine.

    Works while the pipeline runs, which refreshes them too. Ends with 1 when a model failed; its table keeps the rows
    it had. With --print and --model only that one is printed. What does not mean the same in an engine is refused,
    with file and line.
    """
    from catchment.config import load
    from catchment.errors import ConfigError

    if dialect is not None and not print_:
        raise ConfigError("--dialect says how models are printed: add --print.")
    config = load(pipeline)
    models = _models(config, model)
    if print_:
        _print([one for one in models if model in (None, one.name)], dialect or Dialect.DUCKDB, as_json)
        return
    status = _refresh(config, models)
    _show(models, status, as_json)
    if any(one.error is not None for one in status.values()):
        raise typer.Exit(1)


def _models(config: PipelineConfig, name: str | None) -> list[Model]:
    from catchment.errors import ConfigError
    from catchment.lakehouse.gold.model import load_models, with_upstream

    if config.lakehouse.gold is None:
        raise ConfigError("The pipeline has no gold models: name their directory as `lakehouse.gold`.")
    models = load_models(config.directory / config.lakehouse.gold)
    return models if name is None else with_upstream(models, name)


def _print(models: Sequence[Model], dialect: Dialect, as_json: bool) -> None:
    import json

    from catchment.errors import ConfigError
    from catchment.lakehouse.gold.dialect import not_portable, transpile

    if dialect is not Dialect.DUCKDB and (refused := [why for one in models for why in not_portable(one, dialect)]):
        raise ConfigError(f"Not the same in {dialect.name.title()}:\n" + "\n".join(refused))
    texts = {one.name: transpile(one, dialect) for one in models}
    if as_json:
        print(json.dumps({"dialect": dialect.value, "models": texts}, indent=2, ensure_ascii=False))
    elif len(texts) == 1:
        print(*texts.values())
    else:
        print("\n\n".join(f"-- gold.{name}\n{text}\n;" for name, text in texts.items()))


def _refresh(config: PipelineConfig, models: Sequence[Model]) -> Mapping[str, ModelStatus]:
    import time

    from catchment.lakehouse.catalog import load_catalog
    from catchment.lakehouse.gold.landing import GoldLayer
    from catchment.quality.gate import QualityGate

    gate = QualityGate.of(config.lakehouse, config.directory, config.name)
    catalog = load_catalog(config.lakehouse.catalog, config.directory)
    try:
        layer = GoldLayer(models, catalog, gate=gate)
        status = layer.refresh()
        for attempt in range(1, ATTEMPTS):
            if not layer.failed_for_now:
                break
            time.sleep(0.1 * attempt)
            status = layer.refresh()
        return status
    finally:
        catalog.close()


def _show(models: Sequence[Model], status: Mapping[str, ModelStatus], as_json: bool) -> None:
    import json
    import sys

    if as_json:
        print(json.dumps({"models": [_document(one, status[one.name]) for one in models]}, indent=2))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("model")
    for name in ("rows", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("result", overflow="fold")
    for one in models:
        its = status[one.name]
        rows = f"{its.rows:,}" if its.rows is not None else ""
        result = Text(its.error, style="red") if its.error else Text("changed" if its.changed else "as before")
        table.add_row(Text(one.name, style="bold"), rows, f"{its.seconds:.2f}", result)
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(table if models else "There are no gold models yet.")


def _document(model: Model, status: ModelStatus) -> dict[str, Any]:
    return {
        "model": model.name,
        "rows": status.rows,
        "seconds": round(status.seconds, 3),
        "changed": status.changed,
        "error": status.error,
    }
