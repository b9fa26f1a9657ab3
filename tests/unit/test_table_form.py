"""What a table's form tells of DDL that changed rows."""

from __future__ import annotations

import pytest

from catchment.sources.postgres.table_form import TableForm, _digest


def form(
    *names: str | None,
    files: str = "f",
    ddl: str = "d",
    key: str = "k",
    late: str | None = None,
    key_ddl: str = "",
    key_types: str = "",
) -> TableForm:
    columns = tuple("0000" if name is None else _digest(name) for name in names)
    return TableForm(files, ddl, key, columns, frozenset({late} if late else ()), key_ddl, key_types)


def test_a_form_reads_back() -> None:
    one = form("a", None, "b", late="b", key_ddl="i", key_types="t")
    assert TableForm.parse(str(one)) == form("a", None, "b", key_ddl="i", key_types="t")
    older = str(one).rpartition(".")[0]
    assert TableForm.parse(older) == form("a", None, "b", key_ddl="i"), "as an older Catchment kept it"
    assert TableForm.parse(older.rpartition(".")[0]) == form("a", None, "b"), "as a still older one kept it"


@pytest.mark.parametrize(
    ("now", "otherwise"),
    [
        (form("c", "b", ddl="other", key="other", key_ddl="i", key_types="t"), True),
        (form("a", "b", ddl="other", files="other", key_ddl="j", key_types="t"), True),
        (form("a", "b", ddl="other", files="other", key_ddl="i", key_types="t"), False),
        (form("a", "b", ddl="other", key_ddl="j", key_types="t"), False),
        (form("a", "b", ddl="other", key_ddl="j", key_types="u"), True),
    ],
    ids=["another key", "another type", "another type of another column", "statistics of the key", "no rewrite"],
)
def test_rows_with_other_keys_are_told(now: TableForm, otherwise: bool) -> None:
    assert now.tells_rows_apart_otherwise(form("a", "b", key_ddl="i", key_types="t")) is otherwise
    unknown = form("a", "b")
    assert now.tells_rows_apart_otherwise(unknown) is (otherwise and now.key != unknown.key)


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (form("a", "b", ddl="other", files="other"), "rewritten"),
        (form("a", "c", ddl="other"), "renamed"),
        (form("c", "b", ddl="other", key="other"), "another key"),
        (form("a", None, "b", ddl="other"), "dropped and added"),
        (form("a", "b", "c", ddl="other", late="c"), "default"),
    ],
)
def test_ddl_that_changes_rows_is_told(now: TableForm, why: str) -> None:
    assert why in (now.changed_rows_since(form("a", "b")) or "")


@pytest.mark.parametrize(
    "now",
    [
        form("a", "b"),
        form("a", "b", files="other"),
        form("a", "b", ddl="other"),
        form("a", None, ddl="other"),
        form("a", "b", "c", ddl="other"),
        form("a", "b", ddl="other", late="b"),
    ],
    ids=["nothing", "vacuum full", "statistics", "drop", "add", "an old default"],
)
def test_ddl_that_changes_no_rows_is_not(now: TableForm) -> None:
    assert now.changed_rows_since(form("a", "b")) is None
