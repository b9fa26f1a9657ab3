"""The documentation is true: its links, commands, options, examples and tables. And each check can fail."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from docs import checks, reference
from docs.commands import commands, wrong
from docs.pages import Page, load
from docs.site import build

from catchment.errors import PositionLost
from catchment.testing.sinks import SinkConformance, SinkHarness

PAGES = load()


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
def test_the_pages_pass(check: Callable[[checks.Pages], Iterator[str]]) -> None:
    assert list(check(PAGES)) == []


def page(text: str, name: str = "docs/example.md") -> list[Page]:
    return [Page(Path(name), text)]


@pytest.mark.parametrize(
    ("check", "text", "said"),
    [
        (checks.links, "[a](nowhere.md)", "leads to no file"),
        (checks.links, "# A `b`\n\n[a](#a-c)", "has no heading #a-c"),
        (checks.links, "![a](../shot.png)", "leads to no file"),
        (checks.links, "[a](http://example.com)", "neither relative nor https"),
        (checks.tables, "<!-- made from the code: nonsense -->\n<!-- end -->", "nothing makes the table `nonsense`"),
        (checks.tables, "<!-- made from the code: exit-codes -->\nold\n<!-- end -->", "not as the code is"),
        (checks.command_lines, "Run `catchment frobnicate now`.", "no command `frobnicate`"),
        (checks.command_lines, "```sh\ncatchment run p.yaml --fast\n```", "`catchment run` has no option `--fast`"),
        (checks.command_lines, "```sh\n$ catchment \\\n  demo shop --sped 3\n```", "no option `--sped`"),
        (checks.command_lines, "Say `make cake`.", "no target `make cake`"),
        (checks.yaml_examples, "```yaml\nsource: {type: postgres, dsn: x, tabels: [a.b]}\n```", "no key `tabels`"),
        (checks.yaml_examples, "```yaml\nsinks: [{type: paper}]\n```", "no sink of type `paper`"),
        (checks.sql_examples, "```sql\n-- name: a\nDELETE FROM current.orders\n```", "exactly one SELECT"),
        (checks.sql_examples, "```sql\nSELECT FROM WHERE (\n```", "this is not SQL"),
        (checks.python_examples, "```python\nprint(\n```", "was never closed"),
        (checks.python_examples, "```python\nfrom catchment import disconnect\n```", "catchment has no disconnect"),
    ],
)
def test_a_wrong_page_is_found_out(check: Callable[[checks.Pages], Iterator[str]], text: str, said: str) -> None:
    assert any(said in problem for problem in check(page(text)))


def test_a_page_that_leaves_something_out_is_found_out() -> None:
    from catchment.sources.shards import Trimmed

    assert issubclass(Trimmed, PositionLost), "a kind of it that is loaded changes nothing"
    assert any("`catchment run`" in said for said in checks.commands_described(page("", "docs/commands.md")))
    assert any("`snapshots_kept`" in said for said in checks.options_described(page("", "docs/configuration.md")))
    assert any("`PositionLost`" in said for said in checks.errors_described(page("", "docs/troubleshooting.md")))
    assert any("`ops.lease`" in said for said in checks.operations_described(page("", "docs/querying.md")))
    assert any("docs/other.md is not linked" in said for said in checks.reachable(page("", "docs/other.md")))
    assert any("`types` is on no page" in said for said in checks.tables(page("")))


def test_a_module_that_is_gone_is_found_out() -> None:
    text = "## Modules\n\n| a | b |\n|---|---|\n| `lakehouse/gold`, `nothing` | x |\n"
    assert list(checks.modules_exist(page(text, "ARCHITECTURE.md"))) == [
        "ARCHITECTURE.md: there is no module lakehouse/nothing."
    ]


def test_right_command_lines_are_let_pass() -> None:
    for line in (
        'catchment query p.yaml "SELECT -1" --format json | head -3',
        ".venv/bin/catchment demo shop --seconds 20 --rate 500 --json",
        "catchment schema > pipeline.schema.json",
        'make demo ARGS="--seconds 20"',
        "catchment --version",
    ):
        assert wrong(line) is None


def test_every_command_has_a_word_for_each_of_its_options() -> None:
    for command in commands().values():
        for one in command.parameters:
            assert one.help, f"{command.name} {one.names[0]}"


def test_renewing_the_tables_changes_nothing_that_is_not_between_markers() -> None:
    text = "# A\n\nbefore\n\n<!-- made from the code: exit-codes -->\n<!-- end -->\n\nafter\n"
    renewed = reference.renewed(Page(Path("a.md"), text))
    assert "| 130 |" in renewed
    assert renewed.startswith("# A\n\nbefore\n") and renewed.endswith("<!-- end -->\n\nafter\n")
    assert reference.renewed(Page(Path("a.md"), renewed)) == renewed


def test_the_site_has_every_page_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    before = [page.links for page in load()]
    assert build(PAGES, tmp_path / "site") == len(PAGES)
    assert [page.links for page in PAGES] == before, "the pages themselves stay as they are"
    import re

    for file in (tmp_path / "site").rglob("*.html"):
        text = file.read_text()
        assert "<h1" in text, file
        for target in re.findall(r'(?:href|src)="([^"#]+)', text):
            if not target.startswith(("https:", "mailto:")):
                assert (file.parent / target).exists(), f"{file.name}: {target}"


def _example(number: int, name: str, package: ModuleType | None = None) -> ModuleType:
    """A Python example of the page about testing, as a module."""
    testing = next(one for one in PAGES if one.path.name == "testing.md")
    blocks = [block.text for block in testing.blocks if block.language == "python"]
    module = ModuleType(name)
    sys.modules[name] = module
    exec(compile(blocks[number], f"docs/testing.md, example {number + 1}", "exec"), module.__dict__)  # noqa: S102
    return module


paper_sink = _example(0, "paper_sink")
harness_of_the_page = _example(1, "paper_sink_tests")


class TestTheSinkOnThePage(SinkConformance):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> SinkHarness:
        harness: SinkHarness = harness_of_the_page.SqliteHarness(tmp_path)
        return harness


def test_failures_as_data_run_as_the_page_has_them() -> None:
    example = _example(3, "failures_as_data")
    report = example.pipeline.run(_stopped(), until_caught_up=True)
    assert report.state == "stopped"


def _stopped() -> object:
    import threading

    stop = threading.Event()
    stop.set()
    return stop
