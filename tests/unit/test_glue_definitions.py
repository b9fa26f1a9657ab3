"""A file that declares tables and views of a Glue database: what is said of what is wrong in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from catchment.errors import ConfigError
from catchment.glue.definitions import read_definitions


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tabels: {}\n", "tables.yaml:1: there is no key `tabels`; did you mean `tables`?"),
        (
            "tables:\n  sales:\n    colums: {}\n",
            "tables.yaml:3: there is no key `colums` in `tables.sales`; did you mean",
        ),
        ("tables:\n  sales:\n    columns: {id: 3}\n", "tables.yaml:3: `tables.sales.columns.id` is text;"),
        ("views: []\n", "tables.yaml:1: `views` is a section: write its keys"),
        ("", "tables.yaml:1: a file of tables is a mapping with the keys `tables:` and `views:`."),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "tables.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_definitions(file)
    assert words in str(caught.value)
