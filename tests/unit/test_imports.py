"""Imports go one way, and start-up loads nothing heavy.

contracts ← components ← pipeline ← assembly ← programs. Read from the source tree, so that imports inside
functions and for type checkers count as well.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import catchment

ROOT = Path(catchment.__file__).parent


def names(text: str) -> frozenset[str]:
    """The names in a text."""
    return frozenset(text.split())


LAYERS: Mapping[str, frozenset[str]] = {
    "contracts": names(
        "aws_client aws_errors s3_address durable process_lock change schema errors progress telemetry clock failpoint "
        "component finding document document_errors lakehouse.config sources.base sources.sample sources.verification "
        "sinks.base transforms.base"
    ),
    "components": names("sources transforms formats sinks checkpoint lakehouse quality"),
    "pipeline": names("pipeline ledger"),
    "assembly": names("config config_errors config_schema registry beside validation pipeline_status verify glue"),
    "programs": names("cli demo aws spark dashboard"),
}
"""From the bottom up. A module belongs to the longest of these names that it begins with."""

BESIDE: Mapping[str, frozenset[str]] = {
    "sources": frozenset({"formats"}),
    "sinks": frozenset({"formats", "lakehouse"}),
    "lakehouse": frozenset({"quality"}),
    "quality": frozenset({"lakehouse"}),
    "transforms": frozenset(),
    "formats": frozenset(),
    "checkpoint": frozenset(),
}
"""What a component may import of the other components. Sources and sinks know nothing of each other."""

EXCEPTIONS: Mapping[tuple[str, str], str] = {
    ("lakehouse.reading.connection", "config"): "catchment.connect() takes a pipeline.yaml and is found here",
}
"""Each with its reason; one that is no longer needed fails the test."""

HEAVY = names(
    "numpy pyarrow duckdb pyiceberg pandas psycopg sqlalchemy faker adbc_driver_manager adbc_driver_postgresql "
    "sqlglot boto3 confluent_kafka pyspark streamlit pytest"
)


class Import(NamedTuple):
    """Module `importer` imports module `imported`, at this line. Both without `catchment.`."""

    importer: str
    imported: str
    line: int


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@cache
def modules() -> dict[str, Path]:
    """Every module of the package; the package itself is ''."""
    return {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


@cache
def imports() -> list[Import]:
    """Every import of one of our modules by another."""
    return [
        Import(importer, imported.removeprefix("catchment").removeprefix("."), line)
        for importer, path in modules().items()
        for imported, line in _imported(path)
    ]


def _imported(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide what a module depends on"
            if (node.module or "").split(".")[0] == "catchment":
                for alias in node.names:
                    longer = f"{node.module}.{alias.name}"
                    known = longer.removeprefix("catchment.") in modules()
                    yield (longer if known else str(node.module)), node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "catchment":
                    yield alias.name, node.lineno


def layer(module: str) -> int | None:
    """The number of a module's layer, from the bottom; None when it has none."""
    found = [
        (len(name), number)
        for number, prefixes in enumerate(LAYERS.values())
        for name in prefixes
        if module == name or module.startswith(f"{name}.")
    ]
    return max(found)[1] if found else None


def test_every_module_has_a_layer() -> None:
    packages = {"", "testing"}
    without = [m for m in modules() if m.split(".")[0] not in packages and layer(m) is None]
    assert without == [], "give these a place in LAYERS"


def test_imports_go_one_way() -> None:
    wrong = []
    for one in imports():
        mine, theirs = layer(one.importer), layer(one.imported)
        if mine is None or theirs is None or (one.importer, one.imported) in EXCEPTIONS:
            continue
        if theirs > mine:
            wrong.append(one)
    assert wrong == []


def test_components_know_only_what_they_may_of_each_other() -> None:
    wrong = []
    components = list(LAYERS).index("components")
    for one in imports():
        if layer(one.importer) != components or layer(one.imported) != components:
            continue
        mine, theirs = one.importer.split(".")[0], one.imported.split(".")[0]
        if mine != theirs and theirs not in BESIDE[mine]:
            wrong.append(one)
    assert wrong == []


def test_sources_never_import_sinks_nor_sinks_sources() -> None:
    pairs = {(one.importer.split(".")[0], one.imported.split(".")[0]) for one in imports()}
    assert ("sources", "sinks") not in pairs
    assert ("sinks", "sources") not in pairs


def test_the_run_loop_imports_contracts_only() -> None:
    contracts = list(LAYERS).index("contracts")
    loop = LAYERS["pipeline"]
    wrong = [
        one
        for one in imports()
        if one.importer in loop and one.imported not in loop and layer(one.imported) != contracts
    ]
    assert wrong == []
    assert any(one.importer == "pipeline" for one in imports())


def test_nothing_that_ships_needs_the_test_kit() -> None:
    wrong = [one for one in imports() if one.imported.startswith("testing") and not one.importer.startswith("testing")]
    assert wrong == []


@pytest.mark.parametrize(("importer", "imported"), EXCEPTIONS)
def test_an_exception_is_still_needed(importer: str, imported: str) -> None:
    assert any((one.importer, one.imported) == (importer, imported) for one in imports())


def loaded_by(program: str, *arguments: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after this program."""
    script = (
        "import sys\n"
        "try:\n" + "".join(f"    {line}\n" for line in program.splitlines()) + "except SystemExit as done:\n"
        "    assert not done.code, done.code\n"
        "print('\\nLOADED', *sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.rpartition("LOADED ")[2].split())


def test_importing_catchment_loads_nothing_heavy() -> None:
    loaded = loaded_by("import catchment")
    assert "catchment" in loaded
    assert loaded & HEAVY == set()


def test_importing_every_configuration_loads_nothing_heavy() -> None:
    configs = [name for name in modules() if name.split(".")[-1] == "config"]
    assert len(configs) > 3
    loaded = loaded_by("\n".join(f"import catchment.{name}" for name in configs))
    assert "pydantic" in loaded
    assert loaded & HEAVY == set()


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["demo", "shop", "--help"], ["--version"]])
def test_asking_for_help_loads_nothing_heavy(arguments: list[str]) -> None:
    loaded = loaded_by("from catchment.cli import main\nsys.argv[0] = 'catchment'\nmain()", *arguments)
    assert "catchment" in loaded
    assert loaded & HEAVY == set()
