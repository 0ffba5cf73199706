"""Draws a run as SVG: one panel per metric, a bar per case, whiskers from the least to the most."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from bench.harness import Findings
from bench.question import Metric
from bench.report import Spread, spread

_OURS, _LIMIT, _PEER = "#1b6ca8", "#999999", "#d9a441"
_WIDTH, _NAMES, _FIGURES = 840, 170, 110
"""Of a panel, of the names on its left and of the figures on its right."""
_LINE, _HEAD, _FOOT = 22, 34, 22
TICKS = 5


def draw(findings: Findings, path: Path) -> None:
    """Write the plot."""
    top, parts = 40.0, []
    for metric in findings.question.metrics:
        spreads = [(case.name, spread(findings, case.name, metric.name)) for case in findings.cases]
        parts.append(f'<g transform="translate(0 {top:g})">')
        parts += _panel(metric, spreads)
        parts.append("</g>")
        top += _HEAD + _LINE * len(spreads) + _FOOT
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top + 8:g}" '
        'font-family="sans-serif" font-size="12" fill="#222">'
        f'<rect width="100%" height="100%" fill="#fff"/>{text(12, 24, findings.question.title, "start", 15)}'
    )
    path.write_text("\n".join([head, *parts, "</svg>\n"]))


def _panel(metric: Metric, spreads: list[tuple[str, Spread | None]]) -> Iterator[str]:
    step = round_step(max((s.most for _, s in spreads if s), default=1.0) or 1.0)
    room = _WIDTH - _NAMES - _FIGURES

    def at(value: float) -> float:
        return _NAMES + room * value / (step * TICKS)

    bottom = _HEAD + _LINE * len(spreads)
    yield text(12, 20, f"{metric.title}: {metric.unit} ({metric.better} is better)", "start", 13)
    for tick in range(TICKS + 1):
        x = at(tick * step)
        yield f'<path d="M{x:.1f} {_HEAD}V{bottom}" stroke="#ddd"/>'
        yield text(x, bottom + 14, f"{tick * step:,.10g}", "middle", 10)
    for place, (name, value) in enumerate(spreads):
        y = _HEAD + _LINE * place
        yield text(_NAMES - 8, y + 15, name, "end", 12)
        if value is None:
            continue
        colour = _OURS if name.startswith("ours") else _LIMIT if name.startswith("limit") else _PEER
        width = at(value.median) - _NAMES
        least, most = at(value.least), at(value.most)
        yield f'<rect x="{_NAMES}" y="{y + 4}" width="{width:.1f}" height="{_LINE - 8}" fill="{colour}"/>'
        yield (f'<path d="M{least:.1f} {y + 7}v8m0 -4H{most:.1f}m0 -4v8" fill="none" stroke="#222"/>')
        yield text(
            _WIDTH - 12,
            y + 15,
            f"{value.median:,.4g}" if value.median < 1000 else f"{value.median:,.0f}",
            "end",
            12,
        )


def round_step(most: float) -> float:
    """A round distance between the ticks, so that ``TICKS`` of them reach ``most``."""
    least = most / TICKS
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * n for n in (1, 2, 2.5, 5, 10) if power * n >= least * 0.999)


def text(x: float, y: float, text: str, anchor: str, size: int) -> str:
    return f'<text x="{x:.1f}" y="{y:g}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
