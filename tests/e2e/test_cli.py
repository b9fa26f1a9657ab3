"""Commands that need no server: help, files, refusals, exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from catchment.cli import app
from catchment.cli.exits import EXIT_CODES, exit_code
from catchment.errors import (
    ConfigError,
    LeaseHeld,
    LeaseLost,
    PositionLost,
    SinkRefused,
    SinkUnavailable,
    SourceRefused,
    SourceUnavailable,
)
from e2e.cli import PIPELINE, run_command, write_pipeline

COMMANDS = ("init", "validate", "run", "status", "query", "gold", "remove", "schema")
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=2"


def helped(*path: str) -> str:
    """A command's help, as words."""
    done = CliRunner().invoke(app, [*path, "--help"])
    assert done.exit_code == 0
    return plain(done.output)


def plain(text: str) -> str:
    """Help as one line of words, whatever the terminal's width and frames."""
    return re.sub(r"[\s│─╭╮╰╯]+", " ", text)


def test_help_names_every_command_and_every_exit_code() -> None:
    done = run_command("--help")
    assert done.code == 0
    for word in (*COMMANDS, "demo", "generate", *EXIT_CODES.values()):
        assert word in plain(done.out)


@pytest.mark.parametrize(
    "path", [*[(name,) for name in COMMANDS], ("demo", "shop"), ("demo", "server"), ("generate", "shop")]
)
def test_every_command_shows_an_example(path: tuple[str, ...]) -> None:
    assert f"Example: catchment {' '.join(path)}" in helped(*path)


def test_help_is_wrapped_by_the_terminal_and_not_by_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    for path in [("query",), ("quality",), ("aws", "firehose"), ("demo", "shop"), ("generate", "gadgets")]:
        text = CliRunner().invoke(app, [*path, "--help"]).output.partition("╭")[0]
        paragraphs = [one for one in re.split(r"\n\s*\n", text) if one.strip()]
        assert len(paragraphs) > 2
        assert [one for one in paragraphs if "\n" in one.strip()] == []


def test_the_documentation_has_every_command_option_and_exit_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    for name in COMMANDS:
        assert f"## catchment {name}" in page
        for option in set(re.findall(r"--[a-z-]+", helped(name))) - {"--help"}:
            assert option in page, f"{name} {option}"
    for code, meaning in EXIT_CODES.items():
        assert f"| {code} | {meaning} |" in page


def test_help_and_the_package_load_nothing_heavy() -> None:
    heavy = "numpy pyarrow duckdb pyiceberg psycopg sqlalchemy faker adbc_driver_postgresql adbc_driver_manager sqlglot"
    code = (
        "import sys, catchment\nfrom catchment.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        f"sys.exit(' '.join(set({heavy.split()!r}) & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (SourceRefused("x"), 1),
        (PositionLost("x"), 1),
        (SinkRefused("x"), 1),
        (LeaseHeld("x"), 3),
        (LeaseLost("x"), 3),
        (SourceUnavailable("x"), 4),
        (SinkUnavailable("x"), 4),
    ],
)
def test_each_error_has_its_documented_exit_code(error: Exception, code: int) -> None:
    assert exit_code(error) == code  # type: ignore[arg-type]
    assert code in EXIT_CODES


def test_init_writes_a_pipeline_that_validates_and_never_overwrites(tmp_path: Path) -> None:
    directory = tmp_path / "My Lake 2"
    assert run_command("init", directory).code == 0
    text = (directory / "pipeline.yaml").read_text()
    assert "name: my_lake_2\n" in text
    checked = run_command("validate", directory / "pipeline.yaml", "--offline", SOURCE_DSN=NOWHERE)
    assert checked.code == 0, checked.err
    assert "orders_by_status" in checked.out
    (directory / "pipeline.yaml").write_text("mine")
    (directory / ".env.example").unlink()
    again = run_command("init", directory)
    assert (directory / "pipeline.yaml").read_text() == "mine"
    assert (directory / ".env.example").exists()
    assert "kept" in again.err
    assert "wrote" in again.err


@pytest.mark.parametrize(("directory", "name"), [("shop2", "shop2"), ("2026-shop-", "shop"), ("42", "pipeline")])
def test_init_names_pipelines_of_two_directories_apart(tmp_path: Path, directory: str, name: str) -> None:
    # Their names are their slots': shop1 and shop2 may read one database.
    run_command("init", tmp_path / directory)
    assert f"name: {name}\n" in (tmp_path / directory / "pipeline.yaml").read_text()


def test_init_where_nothing_can_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run_command("init", tmp_path / "file")
    assert done.code == 2
    assert "Traceback" not in done.err


def test_the_sections_that_init_leaves_as_comments_are_right(tmp_path: Path) -> None:
    run_command("init", tmp_path)
    text = (tmp_path / "pipeline.yaml").read_text()
    alive = re.sub(
        r"^( *)# (?=(exclude|snapshot_rows|without_id|transforms|  - |    col|    sec|- \{))", r"\1", text, flags=re.M
    )
    assert alive != text
    (tmp_path / "pipeline.yaml").write_text(alive)
    environ = {"SOURCE_DSN": NOWHERE, "HASH_SECRET": "0123456789abcdef"}
    done = run_command("validate", tmp_path / "pipeline.yaml", "--offline", "--json", **environ)
    assert done.code == 0, done.err
    assert "iceberg, files" in done.json["findings"][0]["message"]


def test_a_wrong_file_ends_with_one_sentence_a_line_and_exit_code_2(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path, NOWHERE, PIPELINE.replace("tables:", "tabels:"))
    for arguments in (
        ("validate", path),
        ("run", path),
        ("status", path),
        ("query", path, "SELECT 1"),
        ("remove", path),
    ):
        done = run_command(*arguments)
        assert done.code == 2
        assert done.out == ""
        assert done.err == f"catchment: {path}:5: there is no key `tabels` in `source`; did you mean `tables`?\n"


def test_a_wrong_command_line_ends_with_exit_code_2(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path, NOWHERE)
    assert run_command("rum").code == 2
    assert run_command("run").code == 2
    assert run_command("run", path, "--fast").code == 2
    both = run_command("run", path, "--dry-run", "--resnapshot")
    assert both.code == 2
    assert "leave one out" in both.err


def test_a_gold_model_that_is_wrong_is_found_offline(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path, NOWHERE, PIPELINE.replace("sinks:", "  gold: gold/\nsinks:"))
    (tmp_path / "gold").mkdir()
    (tmp_path / "gold" / "bad.sql").write_text("SELECT 1;\nSELECT 2\n")
    done = run_command("validate", path, "--offline", "--json")
    assert done.code == 1
    assert done.json["ok"] is False
    assert [finding["subject"] for finding in done.json["findings"] if finding["severity"] == "error"] == ["gold"]
    assert "bad.sql:1" in done.out


def test_a_source_that_does_not_answer_ends_with_exit_code_4_and_leaves_nothing(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path, NOWHERE)
    done = run_command("validate", path, "--json")
    assert done.code == 4
    source = next(finding for finding in done.json["findings"] if finding["subject"] == "source")
    assert source["severity"] == "error"
    assert run_command("remove", path, "--yes").code == 4
    assert not (tmp_path / "lake").exists()


def test_a_file_in_place_of_a_directory_and_the_reverse_are_told_without_a_trace(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path, NOWHERE)
    for arguments, words in (
        (("aws", "stand-in", "--dir", path), "Choose another directory"),
        (("aws", "firehose", "--config", tmp_path), "is a directory. Give the path of a file."),
        (("aws", "firehose", "--config", tmp_path / "none"), "Give the path of one that exists."),
        (("demo", "shop", "--dir", path), "Choose another directory"),
        (("demo", "server", path), "Choose another directory"),
        (("backup", path, tmp_path), "is a directory. Give the name of a file"),
        (("backup", path, tmp_path / "not" / "there"), "does not exist. Give the name of a file"),
        (("query", path, " "), "There is no statement in the query."),
    ):
        done = run_command(*arguments)
        assert (done.code, done.out) == (2, ""), done.err
        assert words in done.err
        assert "Traceback" not in done.err
        assert "pipeline.yaml in it" not in done.err
    assert sorted(one.name for one in tmp_path.iterdir()) == [".env", "pipeline.yaml"]


def test_the_environment_of_a_pipeline_is_said_where_people_look(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path, NOWHERE)
    assert run_command("status", path, "--json").json["environment"] is None
    assert "shop has never run" in run_command("status", path).out
    path.write_text(f"environment: prod\n{path.read_text()}")
    assert run_command("status", path, "--json").json["environment"] == "prod"
    assert "shop (prod) has never run" in run_command("status", path).out


def test_status_of_a_pipeline_that_never_ran_works_without_its_source(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path, NOWHERE)
    done = run_command("status", path, "--json")
    assert done.code == 0
    assert done.json["state"] == "never run"
    assert done.json["running"] is False
    assert done.json["source"]["available"] is False
    assert not (tmp_path / "lake").exists()
    assert "has never run" in run_command("status", path).out


def test_the_schema_is_json_and_accepts_the_pipeline_of_the_documentation() -> None:
    done = run_command("schema")
    assert done.code == 0
    assert json.loads(done.out)["properties"]["source"]


def test_queries_that_would_write_are_refused(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path, NOWHERE)
    for statement in (f"COPY (SELECT 1) TO '{tmp_path}/x'", "SELECT 1; DROP SCHEMA gold"):
        done = run_command("query", path, statement)
        assert done.code == 2
        assert "can only be read" in done.err
    assert run_command("query", path, "SELECT * FROM current.nothing").code == 2


def test_results_come_in_every_format(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = write_pipeline(tmp_path, NOWHERE)
    statement = "SELECT 1 AS a, 1.50::DECIMAL(9,2) AS d, NULL AS n UNION ALL SELECT 2, 2.00, NULL ORDER BY a"
    as_json = run_command("query", path, statement, "--format", "json")
    assert as_json.json == [{"a": 1, "d": "1.50", "n": None}, {"a": 2, "d": "2.00", "n": None}]
    assert run_command("query", path, "-", "--format", "csv", stdin=statement).out == "a,d,n\n1,1.50,\n2,2.00,\n"
    file = tmp_path / "out.parquet"
    assert run_command("query", path, statement, "--format", "parquet", "--output", file).code == 0
    assert pq.read_table(file).num_rows == 2
    table = run_command("query", path, statement, "--limit", "1")
    assert "1.50" in table.out
    assert "2.00" not in table.out
    assert "--limit" in table.err
    unwritable = run_command("query", path, statement, "--format", "csv", "--output", tmp_path / "no" / "file")
    assert (unwritable.code, "cannot be written" in unwritable.err) == (2, True)
