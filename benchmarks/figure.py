"""One measured figure beside its target, and a table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure. Targets are the issue's; without one it is for information.

    beside: what it was made of, for people and for `--json`.
    """

    name: str
    value: float
    unit: str
    at_least: float | None = None
    less_than: float | None = None
    beside: Mapping[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Is the target met? None when there is none."""
        if self.at_least is not None:
            return self.value >= self.at_least
        if self.less_than is not None:
            return self.value < self.less_than
        return None

    @property
    def target(self) -> str:
        """The target, for people."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return "" if self.less_than is None else f"< {self.less_than:g}"

    def to_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "at_least": self.at_least,
            "less_than": self.less_than,
            "met": self.met,
            "beside": dict(self.beside),
        }


def table(figures: Sequence[Figure], *, judge: bool = True) -> str:
    """A Markdown table: it reads well in a terminal and in docs/benchmarks.md. judge: say what missed its target."""
    rows = [("what", "measured", "target", "", "made of")]
    for one in figures:
        mark = {True: "met", False: "MISSED", None: ""}[one.met if judge else None]
        beside = ", ".join(f"{name} {_number(value)}" for name, value in one.beside.items())
        rows.append((one.name, f"{_number(one.value)} {one.unit}", one.target, mark, beside))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in lines)


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def megabytes(size: float) -> float:
    """Bytes as MB, of a million."""
    return size / 1e6
