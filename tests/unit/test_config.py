"""pipeline.yaml: what is read, and what is said about what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from catchment.config import PipelineConfig, load
from catchment.config_schema import json_schema
from catchment.errors import ConfigError
from catchment.sources.postgres.config import PostgresSourceConfig

WHOLE = """\
name: shop
environment: prod
source:
  type: postgres
  dsn: ${SHOP_DSN}
  tables: [public.*, sales.order_*]
  exclude: [public.audit]
  snapshot_workers: ${WORKERS:-4}
transforms:
  - type: hash
    columns: [public.dim_users.email, "*.phone"]
    secret: ${SHOP_SECRET}
lakehouse:
  catalog: {type: sql, uri: "sqlite:///lake/catalog.db", warehouse: lake/warehouse, echo: false}
  gold: gold/
sinks:
  - {type: iceberg, flush_interval_seconds: 2, flush_rows: 5}
"""
ENVIRON = {"SHOP_DSN": "postgresql://localhost/shop", "SHOP_SECRET": "a secret of some length"}

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "pipeline.yaml"
        path.write_text(text)
        return path

    return write


def source(config: PipelineConfig) -> PostgresSourceConfig:
    assert isinstance(config.source, PostgresSourceConfig)
    return config.source


def complaint(path: Path, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, ENVIRON if environ is None else environ)
    return str(caught.value)


def test_a_whole_file_becomes_typed_models(write: Write, tmp_path: Path) -> None:
    config = load(write(WHOLE), ENVIRON)
    assert config.name == "shop"
    assert config.environment == "prod"
    assert config.directory == tmp_path.resolve()
    assert source(config).dsn.get_secret_value() == "postgresql://localhost/shop"
    assert source(config).snapshot_workers == 4
    assert source(config).slot_name("shop") == "catchment_shop"
    assert [(sink.name, sink.flush_interval_seconds, sink.flush_rows) for sink in config.sink_configs] == [
        ("iceberg", 2.0, 5)
    ]
    assert config.lakehouse.gold == Path("gold/")


def test_secrets_do_not_show(write: Write) -> None:
    config = load(write(WHOLE), {**ENVIRON, "SHOP_DSN": "postgresql://u:hunter2@h/shop"})
    assert "hunter2" not in repr(config)
    assert "hunter2" not in config.model_dump_json()
    assert "a secret of" not in repr(config)


def test_the_environment_wins_over_the_env_file_and_both_over_the_default(write: Write, tmp_path: Path) -> None:
    lines = [
        "# the shop",
        "",
        "export SHOP_DSN='host=a dbname=\"b\" # c'",
        'SHOP_SECRET="line\\none" # comment',
        "WORKERS=7 # seven",
    ]
    (tmp_path / ".env").write_text("\n".join(lines))
    config = load(write(WHOLE), {})
    assert source(config).dsn.get_secret_value() == 'host=a dbname="b" # c'
    assert source(config).snapshot_workers == 7
    assert source(load(write(WHOLE), {"WORKERS": "9"})).snapshot_workers == 9


def test_an_empty_variable_takes_the_default(write: Write) -> None:
    assert source(load(write(WHOLE), {**ENVIRON, "WORKERS": ""})).snapshot_workers == 4


def test_a_variable_stays_text_so_that_a_numeric_secret_is_one(write: Write) -> None:
    config = load(write(WHOLE), {**ENVIRON, "SHOP_SECRET": "1234567890123456"})
    assert "1234567890123456" not in repr(config)


def test_a_dollar_sign_can_be_escaped(write: Write) -> None:
    config = load(write(WHOLE.replace("${SHOP_DSN}", "'host=h password=$${x}$'")), ENVIRON)
    assert source(config).dsn.get_secret_value() == "host=h password=${x}$"


def test_a_variable_in_a_comment_is_not_looked_for(write: Write) -> None:
    assert load(write(WHOLE + "# ${NOT_SET}\n"), ENVIRON).name == "shop"


def test_a_missing_variable_is_named_with_its_line(write: Write) -> None:
    said = complaint(write(WHOLE), {"SHOP_SECRET": "x"})
    assert "pipeline.yaml:5:" in said
    assert "SHOP_DSN" in said
    assert "source.dsn" in said
    assert ".env" in said


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("name: shop", "nam: shop", 1, ["`nam`", "did you mean `name`?"]),
        ("name: shop", "name: Shop", 1, ["`name`"]),
        ("name: shop", "name: 2026-01-01", 1, ["`name` is text", "quotes"]),
        ("  exclude:", "  exclud:", 7, ["`exclud` in `source`", "did you mean `exclude`?"]),
        ("  exclude: [public.audit]", "  exclude: [audit]", 7, ["source.exclude[0]", "schema.table"]),
        ("  exclude: [public.audit]", "  snapshot: initail", 7, ["initial, never, only", "did you mean `initial`?"]),
        ("  exclude: [public.audit]", "  slot: Shop-1", 7, ["source.slot"]),
        ("  exclude: [public.audit]", "  snapshot_chunk_bytes: lots", 7, ["source.snapshot_chunk_bytes", "integer"]),
        ("  exclude: [public.audit]", "  tables: [public.*]", 7, ["`tables`", "second time"]),
        ("  dsn: ${SHOP_DSN}", "  slot: x", 3, ["`source.dsn` is missing"]),
        ("  dsn: ${SHOP_DSN}", "  dsn: ${SHOP-DSN}", 5, ["${NAME:-default}"]),
        ("type: postgres", "type: postgers", 4, ["no source of type `postgers`", "postgres"]),
        ("  type: postgres\n", "", 3, ["source.type", "missing", "postgres"]),
        ("columns: [public", "colums: [public", 11, ["`colums` in `transforms[0]`", "did you mean `columns`?"]),
        ("  gold: gold/", "  gld: gold/", 15, ["`gld` in `lakehouse`", "did you mean `gold`?"]),
        ("flush_rows: 5}", "flush_row: 5}", 17, ["`flush_row` in `sinks[0]`", "did you mean `flush_rows`?"]),
        ("type: iceberg,", "type: icebrg,", 17, ["sinks[0].type", "no sink of type `icebrg`", "iceberg"]),
        ("  gold: gold/", "  gold: [a", 16, ["YAML"]),
        ("  gold: gold/", "  gold: !!int x", 15, ["no int"]),
        ("  gold: gold/", "  silver: 5", 15, ["`lakehouse.silver` is one of these: true or false, a list."]),
        ("  gold: gold/", "  silver: [[a]]", 15, ["`lakehouse.silver` is one of these: true or false, a list."]),
        ("name: shop", "name:", 1, ["`name` is empty", "give it a value"]),
        ("name: shop", "name: Shop", 1, ["lower-case letters, digits, `_` and `-`"]),
        ("name: shop", f"name: {'a' * 46}", 1, ["`name` has at most 45 characters"]),
        ("  exclude: [public.audit]", "  exclude: public.audit", 7, ["`source.exclude` is a list", "- "]),
        ("  exclude: [public.audit]", "  slot: Shop-1", 7, ["`source.slot`", "`^[a-z0-9_]{1,63}$`"]),
        (
            "  exclude: [public.audit]",
            "  snapshot_chunk_bytes: 1",
            7,
            ["`source.snapshot_chunk_bytes` should be greater"],
        ),
        (
            "  - {type: iceberg, flush_interval_seconds: 2, flush_rows: 5}",
            "  []",
            16,
            ["`sinks` needs at least one entry"],
        ),
        ("  gold: gold/", "  maintenance: soon", 15, ["`lakehouse.maintenance` is a section", "below it"]),
    ],
)
def test_what_is_wrong_is_named_with_its_line(write: Write, old: str, new: str, line: int, words: list[str]) -> None:
    assert old in WHOLE
    said = complaint(write(WHOLE.replace(old, new, 1)))
    assert f"pipeline.yaml:{line}: " in said
    for word in words:
        assert word in said


def test_a_file_that_is_nested_without_end_is_refused(write: Write) -> None:
    assert "pipeline.yaml: this is nested too deeply" in complaint(write(f"name: {'[' * 5000}{']' * 5000}\n"))


def test_a_file_that_is_no_utf_8_is_refused_with_what_to_do(write: Write) -> None:
    path = write(WHOLE)
    path.write_bytes(WHOLE.encode("utf-16"))
    assert "pipeline.yaml is not text in UTF-8. Save it in that encoding." in complaint(path)
    path.write_bytes(b"name: a\0b\n")
    said = complaint(path)
    assert "this is not YAML" in said
    assert "\n" not in said


def test_everything_that_is_wrong_is_said_at_once_in_order(write: Write) -> None:
    said = complaint(write(WHOLE.replace("name: shop", "nam: shop").replace("exclude:", "exclud:")))
    assert [text.split(":")[1] for text in said.splitlines()] == ["1", "1", "7"]


def test_a_wrong_secret_is_not_repeated(write: Write) -> None:
    said = complaint(write(WHOLE.replace("${SHOP_SECRET}", "{a: hunter2}")))
    assert "transforms[0].secret" in said
    assert "hunter2" not in said


def test_two_sinks_of_one_name_are_refused(write: Write) -> None:
    said = complaint(write(WHOLE + "  - {type: iceberg}\n"))
    assert "pipeline.yaml:16:" in said
    assert "two sinks are named iceberg" in said


def test_a_missing_file_a_directory_and_a_list_are_explained(write: Write, tmp_path: Path) -> None:
    assert "There is no file" in complaint(tmp_path / "nothing.yaml")
    assert "is a directory" in complaint(tmp_path)
    assert "mapping" in complaint(write("- a\n"))
    assert "mapping" in complaint(write(""))


def test_an_alias_that_contains_itself_is_refused(write: Write) -> None:
    assert "pipeline.yaml:2:" in complaint(write("name: shop\nsource: &a\n  tables:\n    - *a\n"))


def test_a_line_of_the_env_file_that_is_no_assignment_is_named(write: Write, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=1\nwhat is this\n")
    assert ".env:2:" in complaint(write(WHOLE))
    (tmp_path / ".env").write_text("A='1\n")
    assert ".env:1:" in complaint(write(WHOLE))


def test_the_schema_for_editors_describes_every_component() -> None:
    schema = json_schema()
    text = json.dumps(schema)
    assert list(schema["properties"])[:3] == ["name", "environment", "source"]
    assert schema["additionalProperties"] is False
    for word in ("snapshot_workers", "PostgresSourceConfig", "HashConfig", "IcebergSinkConfig", "flush_rows"):
        assert word in text
    workers = schema["$defs"]["PostgresSourceConfig"]["properties"]["snapshot_workers"]
    assert {"type": "string", "pattern": r"\$\{[A-Za-z_]"} in workers["anyOf"]
    assert "type" in schema["$defs"]["IcebergSinkConfig"]["required"]


def test_components_of_other_packages_are_found_by_entry_point(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site"
    information = package / "stationery-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: paper-sink\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[catchment.components]\nsink.paper = stationery:PaperSinkConfig\nsink.torn = stationery:Nothing\n"
    )
    (package / "stationery.py").write_text(
        "from typing import Literal\n"
        "from catchment.component import ComponentConfig\n"
        "class PaperSinkConfig(ComponentConfig):\n"
        "    type: Literal['paper']\n"
        "    name: str = 'paper'\n"
        "    sheets: int\n"
    )
    monkeypatch.syspath_prepend(str(package))
    text = WHOLE.replace("type: iceberg, flush_interval_seconds: 2, flush_rows: 5", "type: paper, sheets: 3")
    assert [sink.name for sink in load(write(text), ENVIRON).sink_configs] == ["paper"]
    assert "did you mean `sheets`?" in complaint(write(text.replace("sheets", "sheeets")))
    assert "cannot be imported" in complaint(write(text.replace("type: paper", "type: torn")))


def test_loading_a_file_imports_nothing_heavy(write: Write) -> None:
    path = write(WHOLE)
    heavy = "numpy pyarrow duckdb pyiceberg psycopg sqlalchemy faker adbc_driver_postgresql sqlglot"
    code = (
        "import sys; from catchment.config import load\n"
        f"load({str(path)!r}, {ENVIRON!r})\n"
        f"sys.exit(' '.join(set({heavy.split()!r}) & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
