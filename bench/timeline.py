"""Draws figures over time as SVG: one panel for each group of lines."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.plot import TICKS, round_step, text

__all__ = ["Line", "Mark", "Panel", "draw"]

_COLOURS = ("#1b6ca8", "#d9a441", "#999999", "#7a3b8f")
_WIDTH, _LEFT, _RIGHT = 840, 70, 150
_HEIGHT, _HEAD, _FOOT = 120, 30, 26
_MINUTES = 12
"""Labels on the axis of time at most."""


@dataclass(frozen=True)
class Line:
    """``points``: seconds, and the figure; None is a gap."""

    name: str
    points: Sequence[tuple[float, float | None]]


@dataclass(frozen=True)
class Mark:
    """Something that happened."""

    at: float
    name: str


@dataclass(frozen=True)
class Panel:
    """Lines with one scale."""

    title: str
    lines: Sequence[Line]


def draw(
    title: str,
    panels: Sequence[Panel],
    path: Path,
    *,
    seconds: float,
    marks: Sequence[Mark] = (),
    spans: Sequence[tuple[float, float]] = (),
) -> None:
    """Write the plot; ``spans`` of time are shaded."""
    top, parts = 34.0, []
    for panel in panels:
        parts.append(f'<g transform="translate(0 {top:g})">')
        parts += _panel(panel, seconds, marks, spans)
        parts.append("</g>")
        top += _HEAD + _HEIGHT + _FOOT
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top + 8:g}" '
        'font-family="sans-serif" font-size="12" fill="#222">'
        f'<rect width="100%" height="100%" fill="#fff"/>{text(12, 22, title, "start", 15)}'
    )
    path.write_text("\n".join([head, *parts, "</svg>\n"]))


def _panel(
    panel: Panel, seconds: float, marks: Sequence[Mark], spans: Sequence[tuple[float, float]]
) -> Iterator[str]:
    values = [value for line in panel.lines for _, value in line.points if value is not None]
    step = round_step(max(values, default=1.0) or 1.0)
    bottom = _HEAD + _HEIGHT

    def across(at: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * at / seconds

    def down(value: float) -> float:
        return bottom - _HEIGHT * value / (step * TICKS)

    yield text(12, 18, panel.title, "start", 13)
    for first, last in spans:
        width = across(last) - across(first)
        box = f'x="{across(first):.1f}" y="{_HEAD}" width="{width:.1f}" height="{_HEIGHT}"'
        yield f'<rect {box} fill="#eef3f7"/>'
    for tick in range(TICKS + 1):
        y = down(tick * step)
        yield f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>'
        yield text(_LEFT - 6, round(y + 4, 1), f"{tick * step:,.10g}", "end", 10)
    every = next(n for n in (0.25, 0.5, 1, 2, 5, 10, 30, 60, 10**9) if seconds / 60 / n <= _MINUTES)
    for number in range(int(seconds / 60 / every) + 1):
        minute = number * every
        yield text(round(across(60 * minute), 1), bottom + 14, f"{minute:g} min", "middle", 10)
    for mark in marks:
        x = across(mark.at)
        yield f'<path d="M{x:.1f} {_HEAD}V{bottom}" stroke="#b33" stroke-dasharray="3 3"/>'
        yield text(round(x + 3, 1), _HEAD + 10, mark.name, "start", 9)
    for line, colour, place in zip(panel.lines, itertools.cycle(_COLOURS), itertools.count()):
        pen, drawn = "M", []
        for at, value in line.points:
            if value is None:
                pen = "M"
                continue
            drawn.append(f"{pen}{across(at):.1f} {down(value):.1f}")
            pen = "L"
        yield f'<path d="{"".join(drawn)}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        x, y = _WIDTH - _RIGHT + 12, _HEAD + 12 + 16 * place
        yield f'<path d="M{x} {y - 4}h14" stroke="{colour}" stroke-width="3"/>'
        yield text(x + 20, y, line.name, "start", 11)
