"""A suite as one page for a browser: self-contained, without scripts, with nothing of a row's values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files

from catchment.quality.advice import advice
from catchment.quality.config import Severity
from catchment.quality.outcome import RuleOutcome, Status, Suite, TableOutcome, counted, named_keys
from catchment.quality.picture import percent, ring, trend
from catchment.quality.results import WHOLE, Point

History = Mapping[tuple[str, str], Sequence[Point]]

_SECTIONS = {
    Severity.FAIL: ("Stops gold", "while one of these is broken, gold keeps the rows it has"),
    Severity.QUARANTINE: ("Kept out of silver", "rows that break one of these stay in quarantine"),
    Severity.FLAG: ("Flagged", "told here, and marked in the column <code>_quality</code>"),
}
_CODE = re.compile("`([^`]+)`")
_WORST = (Severity.FAIL, Severity.QUARANTINE, Severity.FLAG)


def page(suite: Suite, history: History) -> str:
    """The whole page. history: what the kept suites said of each rule, the oldest first."""
    parts = [_header(suite), _verdict(suite), _cards(suite, history)]
    parts += [_section(suite, severity, history) for severity in _WORST]
    parts.append(_footer(suite))
    style = files("catchment.quality").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Data quality of {escape(suite.pipeline)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _header(suite: Suite) -> str:
    of = "before ingestion" if suite.of == "source" else "in the lake"
    return (
        f"<header><div><h1>Data quality of {escape(suite.pipeline)}</h1>"
        f'<p class="soft">{counted(len(list(suite)), "rule")} on {counted(len(suite.tables), "table")}, {of}</p></div>'
        f'<p class="soft">{_moment(suite.judged_at)}</p></header>'
    )


def _verdict(suite: Suite) -> str:
    """The answer first, then what to do."""
    broken = suite.broken()
    kind = _worst(broken)
    if not broken:
        unjudged = suite.counts()[Status.UNJUDGED.value]
        said = "Every rule that could be judged holds" if unjudged else "Every rule holds"
    else:
        said = f"{len(broken)} of {counted(len(list(suite)), 'rule')} {'is' if len(broken) == 1 else 'are'} broken"
        said += ", and gold is stopped" if suite.stops_gold else ""
    todo = "".join(f"<li>{_marked(line)}</li>" for line in advice(suite))
    then = f'<p class="soft">What to do next</p><ul>{todo}</ul>' if todo else ""
    return f'<section class="verdict {kind}"><strong>{said}.</strong>{then}</section>'


def _cards(suite: Suite, history: History) -> str:
    cards = "".join(_card(table, history.get((table.table, WHOLE), ())) for table in suite.tables)
    return f'<h2>Tables</h2><div class="cards">{cards}</div>' if cards else ""


def _card(table: TableOutcome, points: Sequence[Point]) -> str:
    kind = _worst([rule for rule in table.rules if rule.row_local and rule.status is Status.BROKEN])
    picture = ""
    if table.broken is not None and table.rows is not None:
        kept = table.rows - table.broken
        picture = ring(kept, table.rows, kind, f"{percent(kept, table.rows)} of the rows keep every rule about rows")
    seen = [(point.rows - (point.broken or 0), point.rows) for point in points if point.rows]
    shares = [kept / rows for kept, rows in seen]
    line = trend(shares, kind, f"Share of rows that keep every rule, over the last {counted(len(shares), 'suite')}")
    if line:
        worst, best = percent(*seen[shares.index(min(shares))]), percent(*seen[shares.index(max(shares))])
        span = f"{worst} to {best}" if worst != best else best
        caption = f"Rows that keep every rule, the last {len(shares)} times: {span}"
        line = f"<figure>{line}<figcaption>{escape(caption).replace(' %', '&nbsp;%')}</figcaption></figure>"
    facts = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in _facts(table))
    return (
        f'<article class="card"><h3>{escape(table.table)}</h3><div class="top">{picture}<dl>{facts}</dl></div>'
        f"{line}</article>"
    )


def _facts(table: TableOutcome) -> Iterator[tuple[str, str]]:
    if table.rows is None:
        yield "rows", "not there yet"
        return
    held = sum(rule.status is Status.PASSED for rule in table.rules)
    yield "rules", f"{held} of {len(table.rules)} hold"
    yield "rows", f"{table.rows:,}"
    if table.broken:
        yield "break a rule", f"{table.broken:,}"
    if table.quarantined:
        yield "for quarantine" if table.layer == "source" else "in quarantine", f"{table.quarantined:,}"
    if table.columns is not None:
        yield "columns", f"{table.columns}"
    if table.newest is not None:
        yield "newest (UTC)", _moment(table.newest).removesuffix(" UTC")
    if table.layer:
        yield "read from", table.layer if table.whole else f"{table.layer}, a sample"


def _section(suite: Suite, severity: Severity, history: History) -> str:
    rules = [rule for rule in suite if rule.severity is severity]
    if not rules:
        return ""
    order = {Status.BROKEN: 0, Status.UNJUDGED: 1, Status.PASSED: 2}
    rules.sort(key=lambda rule: order[rule.status])
    title, meaning = _SECTIONS[severity]
    rows = "".join(_row(rule, history.get((rule.table, rule.rule), ())) for rule in rules)
    return (
        f'<h2>{title}<small>{meaning}</small></h2><div class="rules"><table><colgroup><col class="state">'
        '<col class="rule"><col><col class="line"></colgroup><thead><tr><th></th><th>rule</th><th>found</th>'
        f"<th>broken rows over time</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(rule: RuleOutcome, points: Sequence[Point]) -> str:
    kind = {Status.PASSED: "good", Status.UNJUDGED: "unjudged", Status.BROKEN: rule.severity.value}[rule.status]
    counts = [float(point.broken) for point in points if point.broken is not None]
    line = trend(counts, kind, f"Broken rows in the last {counted(len(counts), 'suite')}", width=150, height=30)
    quiet = not any(counts)
    about = f"{escape(rule.table)} · {escape(rule.type.replace('_', ' '))}"
    description = f"<br>{escape(rule.description)}" if rule.description else ""
    shown = f'<br><span class="soft">such as {escape(named_keys(rule))}</span>' if rule.keys else ""
    return (
        f'<tr><td class="state"><span class="mark {kind}">{rule.status.value}</span></td>'
        f'<td><span class="name">{escape(rule.rule)}</span><br><span class="soft">{about} · '
        f"<code>{escape(rule.place)}</code></span>{description}</td><td>{escape(rule.said)}{shown}</td>"
        f'<td class="line">{"" if quiet else line}</td></tr>'
    )


def _footer(suite: Suite) -> str:
    return (
        f"<footer>Made by <code>catchment quality --html</code>, judged in {suite.seconds:.1f} s. Holds counts and "
        "names, and no value of a row"
        + (" but the keys that were asked for" if any(rule.keys for rule in suite) else "")
        + ". Results are kept in <code>ops.quality_results</code>.</footer>"
    )


def _marked(line: str) -> str:
    """A line with its `code` marked."""
    return _CODE.sub(r"<code>\1</code>", escape(line))


def _worst(broken: Sequence[RuleOutcome]) -> str:
    return next((severity.value for severity in _WORST if any(rule.severity is severity for rule in broken)), "good")


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
