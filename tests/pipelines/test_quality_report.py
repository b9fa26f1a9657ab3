"""The report as a page and the rules as DQDL: whole, escaped, with nothing lost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from catchment.quality.config import Severity
from catchment.quality.dqdl import rulesets
from catchment.quality.outcome import RuleOutcome, Status, Suite, TableOutcome
from catchment.quality.report import page
from catchment.quality.results import WHOLE, Point
from catchment.quality.rules import load_rules

VOID = frozenset({"meta", "br", "col", "circle", "polygon", "polyline"})


class Outline(HTMLParser):
    """Elements that were not closed, and whatever the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.loads += [name for name, _ in attrs if name in ("src", "href", "srcset", "onclick", "onload")]
        if tag in ("script", "link", "iframe", "img"):
            self.loads.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def outcome(name: str, severity: Severity, status: Status, *, broken: int | None = None, said: str = "") -> RuleOutcome:
    return RuleOutcome("orders", name, "range", severity, status, said, "quality.yaml:3", rows=1_000, broken=broken)


def suite(*rules: RuleOutcome, broken: int = 0) -> Suite:
    return Suite("shop", 1.8e9, 0.5, (TableOutcome("orders", "silver", 1_000, 0, 6, 1.8e9, rules, broken),))


def outline(text: str) -> Outline:
    parsed = Outline()
    parsed.feed(text)
    assert parsed.open == []
    return parsed


def test_the_page_is_whole_and_loads_nothing() -> None:
    history: Mapping[tuple[str, str], list[Point]] = {
        ("orders", WHOLE): [Point(float(at), Status.BROKEN, 1_000, at) for at in range(5)],
        ("orders", "low"): [Point(float(at), Status.BROKEN, 1_000, at) for at in range(5)],
    }
    found = outline(
        page(
            suite(
                outcome("low", Severity.FAIL, Status.BROKEN, broken=4, said="4 rows of 1,000 break it."),
                outcome("high", Severity.FLAG, Status.PASSED, broken=0),
                broken=4,
            ),
            history,
        )
    )
    assert found.loads == []
    for said in ("1 of 2 rules is broken, and gold is stopped.", "99.6 %", "4 rows of 1,000 break it.", "Stops gold"):
        assert said in found.words
    assert "Kept out of silver" not in found.words


def test_names_and_words_of_a_file_cannot_change_the_page() -> None:
    nasty = '<script>alert("1")</script>'
    text = page(suite(outcome("r", Severity.FLAG, Status.BROKEN, broken=1, said=nasty), broken=1), {})
    assert "<script>" not in text
    assert nasty in outline(text).words


@pytest.mark.parametrize(("broken", "shown"), [(0, "100 %"), (1, "99.99 %"), (1_000, "0 %"), (999, "0.1 %")])
def test_a_share_is_whole_only_when_it_is(broken: int, shown: str) -> None:
    many = TableOutcome("orders", "silver", 10_000 if broken == 1 else 1_000, 0, 6, None, (), broken)
    text = page(Suite("shop", 1.8e9, 0.5, (many,)), {})
    assert f'<text x="50" y="56">{escape(shown)}</text>' in text


DQDL = """\
tables:
  sales:
    - {type: not_null, column: user_id}
    - {type: unique, columns: [a, b]}
    - {type: accepted_values, column: status, values: [OPEN, 'it''s "so" \\']}
    - {type: accepted_values, column: paid, values: [true]}
    - {type: range, column: total, min: 0, below: '1e3', severity: quarantine, description: "never # negative"}
    - {type: range, name: time, column: made, min: 2020-01-01 10:00:00}
    - {type: regex, column: email, pattern: '\\d"x'}
    - {type: relationship, column: user_id, to: users.id}
    - {type: relationship, column: shop, to: shops.id}
    - {type: expression, name: adds_up, sql: 'total = quantity * price -- as agreed'}
    - {type: expression, name: odd, sql: "regexp_full_match(status, 'a')"}
    - {type: row_count, min: 1, max: 9, severity: fail}
    - {type: column_count, equals: 10}
    - {type: freshness, column: made, max_age_seconds: 60}
"""


def test_every_rule_is_said_in_dqdl_or_named_as_not(tmp_path: Path) -> None:
    (tmp_path / "quality.yaml").write_text(DQDL)
    rules = load_rules(tmp_path / "quality.yaml", {})
    text = rulesets(rules)["sales"]
    said = {match[1]: match[0] for match in re.finditer(r'^ {4}[^#\n].*labels=\["rule"="(\w+)".*$', text, re.MULTILINE)}
    missing = re.findall(r"# NOT EXPORTED: (\w+)", text)
    assert sorted([*said, *missing]) == sorted(rule.name for rule in rules)
    assert missing == ["odd"]
    assert said["not_null_user_id"].startswith('    IsComplete "user_id" labels')
    assert """in ["OPEN", "it's \\"so\\" \\\\"] where "`status` IS NOT NULL\"""" in said["accepted_values_status"]
    assert '(ColumnValues "total" >= 0 where' in said["range_total"]
    assert '(ColumnValues "total" < 1000 where' in said["range_total"]
    assert '"severity"="quarantine"' in said["range_total"]
    assert r'matches "^(?:\\d\"x)$"' in said["regex_email"]
    assert 'ReferentialIntegrity "user_id" "users.id" = 1.0' in said["relationship_user_id"]
    assert "LEFT ANTI JOIN `shops`" in said["relationship_shop"]
    assert "NOT (`total` = `quantity` * `price`)" in said["adds_up"]
    assert "((RowCount >= 1) and (RowCount <= 9))" in said["row_count"]
    assert text.count(" labels=[") == len(said)
    assert not text.rstrip().endswith(",\n]")
