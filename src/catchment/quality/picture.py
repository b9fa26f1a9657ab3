"""Small pictures as inline SVG: a ring for a share, a line for a trend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

_RADIUS = 42.0
_ROUND = 2 * math.pi * _RADIUS


def ring(good: int, whole: int, kind: str, title: str) -> str:
    """The share of good ones as a ring with the percentage in it. kind: a CSS class for its colour."""
    share = good / whole if whole else 1.0
    # What is nearly nothing must still be seen.
    shown = share if share in (0.0, 1.0) else min(max(share, 0.012), 0.988)
    return (
        f'<svg class="ring {kind}" viewBox="0 0 100 100" role="img"><title>{escape(title)}</title>'
        f'<circle class="rest" cx="50" cy="50" r="{_RADIUS:.0f}"/>'
        f'<circle class="part" cx="50" cy="50" r="{_RADIUS:.0f}" transform="rotate(-90 50 50)" '
        f'stroke-dasharray="{shown * _ROUND:.2f} {_ROUND:.2f}"/>'
        f'<text x="50" y="56">{escape(percent(good, whole))}</text></svg>'
    )


def trend(values: Sequence[float], kind: str, title: str, *, width: int = 260, height: int = 56) -> str:
    """Values from the oldest to the newest as a line, the newest marked. Nothing for fewer than two."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    span = high - low
    right, bottom = width - 6.0, height - 6.0

    def at(number: int, value: float) -> tuple[float, float]:
        x = 6.0 + (right - 6.0) * number / (len(values) - 1)
        y = 6.0 + (bottom - 6.0) * (0.5 if span == 0 else (high - value) / span)
        return x, y

    points = [at(number, value) for number, value in enumerate(values)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    area = f"{points[0][0]:.1f},{height} {line} {points[-1][0]:.1f},{height}"
    x, y = points[-1]
    return (
        f'<svg class="trend {kind}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
        f'<title>{escape(title)}</title><polygon points="{area}"/><polyline points="{line}"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/></svg>'
    )


def percent(good: int, whole: int) -> str:
    """A share that says 100 % only when it is, and 0 % only when it is."""
    if not whole or good == whole:
        return "100 %"
    if not good:
        return "0 %"
    share = 100 * good / whole
    if share > 99.99:
        return "> 99.99 %"
    if share > 99.9:
        return f"{math.floor(share * 100) / 100:.2f} %"
    return "< 0.1 %" if share < 0.1 else f"{math.floor(share * 10) / 10:.1f} %"
