"""What `validate` finds at the place of a files sink."""

from __future__ import annotations

from pathlib import Path

import pytest

from catchment.component import BuildContext
from catchment.finding import Finding, Severity
from catchment.sinks.files.config import FilesSinkConfig


def check(tmp_path: Path) -> list[Finding]:
    config = FilesSinkConfig.model_validate({"type": "files", "path": "out", "format": "ndjson"})
    return config.check(BuildContext("shop", tmp_path))


@pytest.mark.parametrize("text", ["{", "[]", "", '"shop"'])
def test_an_owner_that_is_garbled_is_a_finding(tmp_path: Path, text: str) -> None:
    (tmp_path / "out" / "_catchment").mkdir(parents=True)
    (tmp_path / "out" / "_catchment" / "owner.json").write_text(text)
    (found,) = check(tmp_path)
    assert found.severity is Severity.ERROR
    assert "owner.json" in found.message


def test_the_owner_decides(tmp_path: Path) -> None:
    (tmp_path / "out" / "_catchment").mkdir(parents=True)
    owner = tmp_path / "out" / "_catchment" / "owner.json"
    owner.write_text('{"pipeline": "shop"}')
    assert [found.severity for found in check(tmp_path)] == [Severity.OK]
    owner.write_text('{"pipeline": "other"}')
    assert "belongs to pipeline 'other'" in check(tmp_path)[0].message
