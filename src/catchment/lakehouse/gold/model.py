"""Gold models: `.sql` files, each one SELECT over `silver`, `current`, `bronze` and the gold of other models.

A model is named after its file unless a header says otherwise::

    -- name: city_revenue
    -- key: city
    -- refresh: changes
    -- description: Orders and revenue of each city.
    SELECT city, ... FROM silver.fact_sales JOIN silver.dim_users USING (user_id) GROUP BY city

`key` (columns, comma-separated) is a promise that a refresh checks: no two rows have the same. `refresh` says
how changed rows land: the table replaced whole, or by changed keys; `auto`, the default, goes by its size.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from catchment.errors import ConfigError

if TYPE_CHECKING:
    from sqlglot import exp

INPUT_LAYERS = ("bronze", "silver", "current", "gold")

HISTORY, VERSIONS, QUARANTINE = "_history", "_versions", "_quarantine"
SILVER_ENDINGS = (HISTORY, VERSIONS, QUARANTINE)
"""`silver.<table>` may have these beside it; `_history` is a view of `_versions`."""

_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_HEADER = re.compile(r"--\s*(?P<field>[a-z]+)\s*:\s*(?P<value>.*?)\s*")
_FIELDS = ("name", "key", "refresh", "description")


class RefreshMode(StrEnum):
    """How a model's changed rows land in its table."""

    AUTO = "auto"
    REPLACE = "replace"
    CHANGES = "changes"


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """A table that a model reads, and the line where it says so."""

    layer: str
    table: str
    line: int

    def __str__(self) -> str:
        return f"{self.layer}.{self.table}"

    @property
    def stored(self) -> tuple[tuple[str, str], ...]:
        """(layer, table) of the Iceberg tables that may hold its rows, the likeliest first."""
        if self.layer == "current":
            return (("bronze", self.table),)
        itself = (self.layer, self.table)
        if self.layer == "silver" and self.table.endswith(HISTORY):
            return (itself, ("silver", self.table.removesuffix(HISTORY) + VERSIONS))
        return (itself,)


@dataclass(frozen=True, slots=True)
class Model:
    """One gold table and the SELECT that makes it, in DuckDB's SQL."""

    name: str
    sql: str
    file: Path
    references: tuple[Reference, ...]
    key: tuple[str, ...] = ()
    refresh: RefreshMode = RefreshMode.AUTO
    description: str = ""


def load_models(directory: Path) -> list[Model]:
    """Read the models of a directory, in an order in which each comes after those it reads.

    Raises ConfigError naming file and line: a statement that is no SELECT, a table that nothing makes, two
    models of one name, models that read each other in a circle.
    """
    if not directory.is_dir():
        raise ConfigError(f"{directory}: there is no such directory of gold models (`lakehouse.gold`).")
    models = [read_model(file) for file in sorted(directory.glob("*.sql"))]
    by_name: dict[str, Model] = {}
    for model in models:
        other = by_name.setdefault(model.name, model)
        if other is not model:
            raise ConfigError(f"{model.file}:1: {other.file.name} is a model named {model.name} too; rename one.")
    return list(_ordered(models, by_name))


def read_model(file: Path) -> Model:
    """Read one model's file. Raises ConfigError naming the line."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as text: {error}") from error
    header = _header(file, text)
    name = header.get("name", file.stem)
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{file}:1: {name!r} is no name for a table: use lower-case letters, digits and _.")
    key = tuple(column.strip() for column in header.get("key", "").split(",") if column.strip())
    tree = parse(file, text)
    return Model(
        name=name,
        sql=_statement(text),
        file=file,
        references=tuple(sorted(_references(file, tree))),
        key=key,
        refresh=_refresh_mode(file, text, header, key),
        description=header.get("description", ""),
    )


def with_upstream(models: Sequence[Model], name: str) -> list[Model]:
    """The model of this name after all that it reads, in the order given. Raises ConfigError for another name."""
    by_name = {model.name: model for model in models}
    if name not in by_name:
        known = ", ".join(sorted(by_name)) or "none"
        raise ConfigError(f"There is no gold model {name}; there are: {known}.")
    wanted, unseen = {name}, [name]
    while unseen:
        reads = {reference.table for reference in _gold(by_name[unseen.pop()])} - wanted
        wanted |= reads
        unseen += reads
    return [model for model in models if model.name in wanted]


def _header(file: Path, text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("--"):
            break
        match = _HEADER.fullmatch(line)
        if match is None:
            continue
        field = match["field"]
        if field not in _FIELDS or field in found:
            what = "comes twice" if field in found else f"is unknown; there are {', '.join(_FIELDS)}"
            raise ConfigError(f"{file}:{number}: header `{field}` {what}.")
        found[field] = match["value"]
    return found


def _refresh_mode(file: Path, text: str, header: dict[str, str], key: tuple[str, ...]) -> RefreshMode:
    value = header.get("refresh", RefreshMode.AUTO.value)
    line = next((n for n, one in enumerate(text.splitlines(), 1) if re.match(r"--\s*refresh\s*:", one)), 1)
    if value not in set(RefreshMode):
        raise ConfigError(f"{file}:{line}: header `refresh` is {', '.join(RefreshMode)}; not {value!r}.")
    if value == RefreshMode.CHANGES and not key:
        raise ConfigError(f"{file}:{line}: `refresh: changes` needs a `key` header: rows are told apart by it.")
    return RefreshMode(value)


def parse(file: Path, text: str) -> exp.Query:
    """The syntax tree of a model's text. Raises ConfigError naming the line."""
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import ParseError, SqlglotError

    try:
        parsed = sqlglot.parse(text, read="duckdb")
    except ParseError as error:
        first = error.errors[0] if error.errors else {}
        said = _in_words(str(first.get("description") or error))
        raise ConfigError(f"{file}:{first.get('line', 1)}: this cannot be parsed: {said}.") from None
    except SqlglotError as error:
        raise ConfigError(f"{file}:1: {error}") from None
    trees = [tree for tree in parsed if tree is not None and not isinstance(tree, exp.Semicolon)]
    if len(trees) != 1 or not isinstance(trees[0], exp.Query):
        raise ConfigError(f"{file}:1: a model is exactly one SELECT statement.")
    return trees[0]


def _in_words(description: str) -> str:
    """What the parser says, without its own names of tokens and classes."""
    said = re.sub(r"<Token .*?text: SENTINEL,.*>", "the end of the text", description)
    said = re.sub(r"<Token .*?text: (.*), line: \d+.*>", r"`\1`", said)
    return re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", said).rstrip(".")


def _statement(text: str) -> str:
    """The text without its final semicolon, so that it can stand in parentheses."""
    import sqlglot

    for token in reversed(sqlglot.tokenize(text, read="duckdb")):
        if token.text != ";":
            break
        text = text[: token.start]
    return text.rstrip()


def _references(file: Path, tree: exp.Query) -> Iterator[Reference]:
    from sqlglot import exp

    local = {cte.alias_or_name.lower() for cte in tree.find_all(exp.CTE)}
    for table in tree.find_all(exp.Table):
        if not isinstance(table.this, exp.Identifier):
            continue  # a table function
        line = int(table.this.meta.get("line", 1))
        layer = table.db.lower()
        if not layer and table.name.lower() in local:
            continue
        if layer not in INPUT_LAYERS or table.catalog:
            raise ConfigError(
                f"{file}:{line}: table {'.'.join(part.name for part in table.parts)} is unknown; a model reads "
                f"silver.<table>, current.<table>, bronze.<table> or gold.<model>."
            )
        yield Reference(layer, table.name, line)


def _ordered(models: Sequence[Model], by_name: dict[str, Model]) -> Iterator[Model]:
    done: set[str] = set()
    path: list[Model] = []

    def visit(model: Model) -> Iterator[Model]:
        if model.name in done:
            return
        path.append(model)
        for reference in _gold(model):
            upstream = by_name.get(reference.table)
            if upstream is None:
                known = ", ".join(f"gold.{name}" for name in sorted(by_name))
                raise ConfigError(f"{model.file}:{reference.line}: no model makes {reference}; there are {known}.")
            if upstream in path:
                circle = " → ".join(one.name for one in (*path[path.index(upstream) :], upstream))
                raise ConfigError(f"{model.file}:{reference.line}: models read each other in a circle: {circle}.")
            yield from visit(upstream)
        path.pop()
        done.add(model.name)
        yield model

    for model in models:
        yield from visit(model)


def _gold(model: Model) -> Iterable[Reference]:
    return (reference for reference in model.references if reference.layer == "gold")
