"""Gold models as files: headers, references, order, and what is refused."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

import catchment.demo
from catchment.errors import ConfigError
from catchment.lakehouse.gold.model import RefreshMode, load_models, read_model, with_upstream


def write(directory: Path, **files: str) -> Path:
    for name, sql in files.items():
        (directory / f"{name}.sql").write_text(sql)
    return directory


def test_a_model_says_its_name_key_and_description_in_its_header(tmp_path: Path) -> None:
    header = "-- name: by_city\n-- key: city, day\n-- description: Orders: all of them\n-- more\n"
    write(tmp_path, some_file=header + "SELECT 1 FROM current.orders")
    (model,) = load_models(tmp_path)
    assert (model.name, model.key, model.description) == ("by_city", ("city", "day"), "Orders: all of them")


def test_a_model_without_a_header_is_named_after_its_file(tmp_path: Path) -> None:
    assert load_models(write(tmp_path, plain="SELECT 1 AS one"))[0].name == "plain"


def test_a_model_says_how_it_is_refreshed(tmp_path: Path) -> None:
    write(tmp_path, plain="SELECT 1 AS a", keyed="-- refresh: changes\n-- key: a\nSELECT 1 AS a")
    assert {model.name: model.refresh for model in load_models(tmp_path)} == {
        "plain": RefreshMode.AUTO,
        "keyed": RefreshMode.CHANGES,
    }


def test_one_model_comes_with_all_that_it_reads_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, a="FROM gold.b", b="FROM gold.c", c="SELECT 1 AS x", d="FROM gold.c")
    models = load_models(tmp_path)
    assert [model.name for model in with_upstream(models, "a")] == ["c", "b", "a"]
    with pytest.raises(ConfigError, match="There is no gold model z; there are: a, b, c, d"):
        with_upstream(models, "z")


def test_a_reference_knows_the_tables_that_may_hold_its_rows(tmp_path: Path) -> None:
    write(tmp_path, m="SELECT 1 FROM current.t, silver.t_history, silver.t_quarantine, bronze.t")
    stored = {str(reference): reference.stored for reference in load_models(tmp_path)[0].references}
    assert stored == {
        "current.t": (("bronze", "t"),),
        "silver.t_history": (("silver", "t_history"), ("silver", "t_versions")),
        "silver.t_quarantine": (("silver", "t_quarantine"),),
        "bronze.t": (("bronze", "t"),),
    }


def test_a_model_knows_the_tables_it_reads_wherever_they_stand(tmp_path: Path) -> None:
    sql = """WITH recent AS (SELECT * FROM current.orders)
    SELECT *, (SELECT max(at) FROM bronze."Weird Name") FROM recent
    WHERE id IN (SELECT id FROM current.users) AND EXISTS (FROM gold.other)"""
    write(tmp_path, model=sql, other="SELECT 1 AS one")
    model = next(one for one in load_models(tmp_path) if one.name == "model")
    assert {(str(reference), reference.line) for reference in model.references} == {
        ("current.orders", 1),
        ("bronze.Weird Name", 2),
        ("current.users", 3),
        ("gold.other", 3),
    }


def test_models_come_after_those_they_read(tmp_path: Path) -> None:
    write(tmp_path, a="FROM gold.b", b="FROM gold.d JOIN gold.c USING (x)", c="FROM gold.d", d="SELECT 1 AS x")
    assert [model.name for model in load_models(tmp_path)] == ["d", "c", "b", "a"]


@pytest.mark.parametrize("ending", [";", ";\n-- the end", " -- the end", ";;"])
def test_a_statement_may_end_as_it_likes(tmp_path: Path, ending: str) -> None:
    model = read_model(write(tmp_path, m=f"SELECT 1 AS one{ending}") / "m.sql")
    assert duckdb.sql(f"SELECT one FROM ({model.sql}\n)").fetchall() == [(1,)]


@pytest.mark.parametrize(
    ("sql", "line", "words"),
    [
        ("SELECT 1\nFROM orders", 2, "orders is unknown"),
        ("SELECT 1\nFROM ops.orders", 2, "ops.orders is unknown"),
        ("-- key: a\n-- refresh: often\nSELECT 1 AS a", 2, "auto, replace, changes"),
        ("-- refresh: changes\nSELECT 1", 1, "needs a `key` header"),
        ("SELECT 1\n\nFROM gold.nothing", 3, "no model makes gold.nothing"),
        ("SELECT 1\nFROM gold.m", 2, "m → m"),
        ("SELECT 1\nFROM WHERE", 2, "Expected table name"),
        ("SELECT 'open", 1, "tokenizing"),
        ("SELECT 1; SELECT 2", 1, "exactly one SELECT"),
        ("DROP TABLE current.orders", 1, "exactly one SELECT"),
        ("", 1, "exactly one SELECT"),
        ("-- name: Not A Name\nSELECT 1", 1, "no name for a table"),
        ("-- name: m\n-- keys: city\nSELECT 1", 2, "header `keys` is unknown"),
        ("-- key: a\n-- key: b\nSELECT 1", 2, "header `key` comes twice"),
    ],
)
def test_a_wrong_model_is_refused_with_its_file_and_line(tmp_path: Path, sql: str, line: int, words: str) -> None:
    write(tmp_path, m=sql)
    with pytest.raises(ConfigError) as refusal:
        load_models(tmp_path)
    assert f"m.sql:{line}:" in str(refusal.value)
    assert words in str(refusal.value)


def test_a_circle_is_told_with_all_its_models(tmp_path: Path) -> None:
    write(tmp_path, a="FROM gold.b", b="SELECT 1\nFROM gold.c", c="FROM gold.a")
    with pytest.raises(ConfigError, match=r"c\.sql:1: .*a → b → c → a"):
        load_models(tmp_path)


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path, one="SELECT 1 AS x", two="-- name: one\nSELECT 2 AS x")
    with pytest.raises(ConfigError, match=r"two\.sql:1: one\.sql is a model named one too"):
        load_models(tmp_path)


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lakehouse\.gold"):
        load_models(tmp_path / "nowhere")


def test_the_shops_models_load_and_say_what_they_are() -> None:
    models = load_models(Path(catchment.demo.__file__).parent / "gold")
    assert {model.name for model in models} == {
        *("city_performance", "order_status", "product_analytics", "sales_anomalies"),
        *("sales_kpis", "sales_trends", "user_analytics"),
    }
    assert all(model.key and model.description for model in models)


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT FROM (", "m.sql:1: this cannot be parsed: Expected table name but got the end of the text."),
        ("SELECT a FROM b WHERE (", "m.sql:1: this cannot be parsed: Required keyword: 'this' missing for Paren."),
        ("WITH a AS (SELECT 1", "m.sql:1: this cannot be parsed: Expecting )."),
    ],
)
def test_sql_that_cannot_be_parsed_is_told_in_words(tmp_path: Path, sql: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_model(write(tmp_path, m=sql) / "m.sql")
    assert str(caught.value).endswith(words)
