"""What a page must keep. Each check takes all pages and returns its problems, each with file and line."""

from __future__ import annotations

import ast
import inspect
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

from catchment import errors
from catchment.errors import CatchmentError, ConfigError
from docs import reference
from docs.commands import commands, is_command, wrong
from docs.pages import ROOT, Code, Page

Pages = Sequence[Page]

COMMANDS, CONFIGURATION, TROUBLESHOOTING, QUERYING, INDEX = (
    Path("docs", name) for name in ("commands.md", "configuration.md", "troubleshooting.md", "querying.md", "index.md")
)
ARCHITECTURE = Path("ARCHITECTURE.md")
SHELL = ("sh", "console", "bash")
BASE = """
name: base
source: {type: postgres, dsn: postgresql://127.0.0.1/shop}
sinks: [{type: iceberg}]
"""
"""What a fragment of a pipeline.yaml is completed with."""


def links(pages: Pages) -> Iterator[str]:
    """Every relative link leads to a file, and every anchor to a heading."""
    known = {page.path: {heading.anchor for heading in page.headings} for page in pages}
    for page in pages:
        for link in page.links:
            if re.match(r"[a-z]+:", link.target):
                if not link.target.startswith(("https:", "mailto:")):
                    yield f"{page.path}:{link.line}: {link.target} is neither relative nor https."
                continue
            name, _, anchor = link.target.partition("#")
            target = _normal(page.path.parent / name) if name else page.path
            if not (ROOT / target).is_file() and target not in known:
                yield f"{page.path}:{link.line}: {link.target} leads to no file."
            elif anchor and anchor not in known.get(target, set()):
                yield f"{page.path}:{link.line}: {target} has no heading #{anchor}."


def _normal(path: Path) -> Path:
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return Path(*parts)


def reachable(pages: Pages) -> Iterator[str]:
    """The index names every page, so that none is lost."""
    index = _page(pages, INDEX)
    named = {_normal(index.path.parent / link.target.partition("#")[0]) for link in index.links}
    for page in pages:
        if page.path != INDEX and page.path not in named:
            yield f"{INDEX}: {page.path} is not linked."


def tables(pages: Pages) -> Iterator[str]:
    """Tables that are made from the code are as the code is, and every one of them is on a page."""
    made = reference.made()
    used = [name for page in pages for name in reference.used(page)]
    for name in sorted(set(made) - set(used)):
        yield f"The table `{name}` is on no page."
    for page in pages:
        unknown = sorted(set(reference.used(page)) - set(made))
        for name in unknown:
            yield f"{page.path}: nothing makes the table `{name}`; there are {', '.join(made)}."
        if not unknown and reference.renewed(page) != page.text:
            yield f"{page.path}: its tables are not as the code is; run `make docs ARGS=--write`."


def command_lines(pages: Pages) -> Iterator[str]:
    """Commands, options and make targets in the text exist."""
    for page in pages:
        for code in _commands_of(page):
            problem = wrong(code.text) if is_command(code.text) else None
            if problem is not None:
                yield f"{page.path}:{code.line}: {problem}."


def _commands_of(page: Page) -> Iterator[Code]:
    yield from page.spans
    for block in page.blocks:
        if block.language in SHELL:
            text = block.text.replace("\\\n", " ")
            yield from (Code("", line, block.line + at) for at, line in enumerate(text.splitlines()))


def commands_described(pages: Pages) -> Iterator[str]:
    """Every command has a section of its own, which holds the table of its options."""
    page = _page(pages, COMMANDS)
    for command in commands().values():
        if command.group:
            continue
        section = page.section(command.name)
        if section is None:
            yield f"{COMMANDS}: there is no section `{command.name}`."
        elif f"made from the code: {command.name} -->" not in section:
            yield f"{COMMANDS}: the section `{command.name}` lacks the table of its options."


def options_described(pages: Pages) -> Iterator[str]:
    """Every key of pipeline.yaml has a meaning, and stands in the complete example."""
    page = _page(pages, CONFIGURATION)
    example = next((block.text for block in page.blocks if block.language == "yaml"), "")
    for section, model in reference.models().items():
        for name in reference.undocumented(model):
            yield f"{model.__module__}: `{name}` of {section} has no docstring."
        for name, field in model.model_fields.items():
            name = field.alias or name
            if not re.search(rf"\b{name}:", example):
                yield f"{CONFIGURATION}: the complete example lacks `{name}` of {section}."


def yaml_examples(pages: Pages) -> Iterator[str]:
    """Every example of a pipeline.yaml, of a part of one, of a quality.yaml or of Glue's tables is accepted."""
    for page in pages:
        for block in page.blocks:
            if block.language == "yaml":
                yield from (f"{page.path}:{block.line}: {said}" for said in _refused(block.text))


def _refused(text: str) -> list[str]:
    import yaml

    from catchment.config import load

    values = yaml.safe_load(text)
    if not isinstance(values, dict):
        return ["this example is no mapping."]
    if list(values) == ["tables"]:
        return _refused_rules(text)
    if list(values) == ["tables", "views"]:
        return _refused_definitions(text)
    missing = [f"{key}: {value!r}" for key, value in yaml.safe_load(BASE).items() if key not in values]
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "pipeline.yaml"
        # What is added stands at the end, so that the lines of the example stay its own.
        file.write_text("\n".join([text, *missing]), encoding="utf-8")
        try:
            load(file, {name: f"value-of-{name}" for name in re.findall(r"\$\{(\w+)", text)})
        except ConfigError as refused:
            return str(refused).replace(str(file), "pipeline.yaml").splitlines()
    return []


def _refused_rules(text: str) -> list[str]:
    """An example of a quality.yaml."""
    from catchment.quality.rules import load_rules

    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "quality.yaml"
        file.write_text(text, encoding="utf-8")
        try:
            load_rules(file, {})
        except ConfigError as refused:
            return str(refused).replace(str(file), "quality.yaml").splitlines()
    return []


def _refused_definitions(text: str) -> list[str]:
    """An example of the tables and views of a Glue database."""
    from catchment.glue.definitions import read_definitions

    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "tables.yaml"
        file.write_text(text, encoding="utf-8")
        try:
            read_definitions(file)
        except ConfigError as refused:
            return str(refused).replace(str(file), "tables.yaml").splitlines()
    return []


def sql_examples(pages: Pages) -> Iterator[str]:
    """Gold models are taken as models; other SQL parses, as DuckDB's or as PostgreSQL's."""
    for page in pages:
        for block in page.blocks:
            if block.language == "sql":
                problem = _wrong_model(block.text) if block.text.startswith("-- ") else _wrong_sql(block.text)
                if problem is not None:
                    yield f"{page.path}:{block.line}: {problem}"


def _wrong_model(text: str) -> str | None:
    from catchment.lakehouse.gold.model import read_model

    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "model.sql"
        file.write_text(text, encoding="utf-8")
        try:
            read_model(file)
        except ConfigError as refused:
            return str(refused).replace(str(file), "the model")
    return None


def _wrong_sql(text: str) -> str | None:
    import logging

    import duckdb
    import sqlglot
    from sqlglot.errors import SqlglotError

    try:
        duckdb.extract_statements(text)
    except duckdb.Error as refused:
        # It may be for the source: sqlglot takes what it does not know as a command, and says so in the log.
        logging.getLogger("sqlglot").setLevel(logging.ERROR)
        try:
            sqlglot.parse(text, read="postgres")
        except SqlglotError:
            return f"this is not SQL: {str(refused).splitlines()[0]}"
    return None


def python_examples(pages: Pages) -> Iterator[str]:
    """Examples in Python compile, and what they import of ours is there."""
    for page in pages:
        for block in page.blocks:
            if block.language == "python":
                try:
                    tree = ast.parse(block.text)
                except SyntaxError as error:
                    yield f"{page.path}:{block.line + (error.lineno or 1)}: {error.msg}."
                    continue
                yield from (f"{page.path}:{block.line}: {said}" for said in _imports(tree))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "catchment":
            try:
                module = import_module(node.module or "")
            except ImportError as error:
                yield f"{error}."
                continue
            for name in node.names:
                if not hasattr(module, name.name):
                    yield f"{node.module} has no {name.name}."


def errors_described(pages: Pages) -> Iterator[str]:
    """Every error has a section that says what to do about it."""
    page = _page(pages, TROUBLESHOOTING)
    described = {heading.text for heading in page.headings}
    for name, error in inspect.getmembers(errors, inspect.isclass):
        # What modules make of it for themselves is handled as it is, and loaded or not.
        grouping = any(one.__module__ == errors.__name__ for one in error.__subclasses__())
        if issubclass(error, CatchmentError) and not grouping and name not in described:
            yield f"{TROUBLESHOOTING}: there is no section `{name}`."


def operations_described(pages: Pages) -> Iterator[str]:
    """Every table of operations data is on the page about querying."""
    from catchment.lakehouse import ops

    page = _page(pages, QUERYING)
    spans = {span.text for span in page.spans}
    for table in ops._metadata.sorted_tables:
        name = f"ops.{table.name.removeprefix('ops_')}"
        if name not in spans:
            yield f"{QUERYING}: `{name}` is not described."


def modules_exist(pages: Pages) -> Iterator[str]:
    """The modules that the architecture names are there: the first of a cell says in which directory."""
    page = _page(pages, ARCHITECTURE)
    for line in (page.section("Modules") or "").splitlines():
        names = re.findall(r"`([a-z_/]+)`", line.split("|")[1]) if line.startswith("| `") else []
        directory = Path()
        for name in names:
            directory = Path(name).parent if "/" in name else directory
            path = ROOT / "src" / "catchment" / directory / Path(name).name
            if not (path.is_dir() or path.with_suffix(".py").is_file()):
                yield f"{ARCHITECTURE}: there is no module {directory / Path(name).name}."


CHECKS: tuple[Callable[[Pages], Iterator[str]], ...] = (
    links,
    reachable,
    tables,
    command_lines,
    commands_described,
    options_described,
    yaml_examples,
    sql_examples,
    python_examples,
    errors_described,
    operations_described,
    modules_exist,
)


def problems(pages: Pages) -> list[str]:
    """Everything that is wrong with the pages."""
    return [problem for check in CHECKS for problem in check(pages)]


def _page(pages: Pages, path: Path) -> Page:
    return next((page for page in pages if page.path == path), Page(path, ""))
