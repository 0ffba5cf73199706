"""What a run says: a table to read, and everything as JSON."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import build, machine
from bench.harness import Findings
from bench.question import Metric

NOISY = 0.2
"""More than this share of a core used by others is worth a warning."""
SATURATED = 0.95
"""Above this share of its core the load (and what runs beside it) may be what was measured."""


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread | None:
        """None when there are no figures."""
        return cls(min(figures), statistics.median(figures), max(figures)) if figures else None


def spread(findings: Findings, case: str, metric: str) -> Spread | None:
    """A metric of one case over the rounds."""
    return Spread.of([round_[case][metric] for round_ in findings.rounds if metric in round_.get(case, {})])


def ratios(findings: Findings, metric: str, over: str, under: str) -> Spread | None:
    """``over`` divided by ``under``, each round by itself."""
    pairs = [
        (round_[over][metric], round_[under][metric])
        for round_ in findings.rounds
        if metric in round_.get(over, {}) and metric in round_.get(under, {})
    ]
    return Spread.of([a / b for a, b in pairs if b])


def _cell(value: Spread | None, show: Callable[[float], str]) -> str:
    return "" if value is None else f"{show(value.median)} ({show(value.least)} … {show(value.most)})"


def _ratio(value: float) -> str:
    return f"{value:.2f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Lines of columns; a column in which only the heading says something is left out."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _block(findings: Findings, metric: Metric) -> str:
    question = findings.question
    rows = [["subject", f"{metric.unit}: median (min … max)", "ours ÷ it", f"it ÷ {question.limit}"]]
    for case in findings.cases:
        value = spread(findings, case.name, metric.name)
        rows.append(
            [
                case.name,
                _cell(value, _number) if value else "FAILED",
                _cell(ratios(findings, metric.name, question.ours, case.name), _ratio),
                _cell(ratios(findings, metric.name, case.name, question.limit), _ratio),
            ]
        )
    return f"{metric.title} ({metric.better} is better)\n{_table(rows)}"


_WHO = ("server", "load", "others")


def _busy(findings: Findings) -> str:
    """How busy the two cores were: shows whose limit was measured, and how quiet the machine was."""
    rows = [["share of one core: median (max)", *_WHO]]
    for case in findings.cases:
        shares = [spread(findings, case.name, who) for who in _WHO]
        if any(shares):
            cells = (f"{100 * s.median:.0f} % ({100 * s.most:.0f} %)" if s else "" for s in shares)
            rows.append([case.name, *cells])
    return _table(rows) if len(rows) > 1 else ""


def warnings(findings: Findings) -> list[str]:
    """What makes the figures of this run unfit for quoting."""
    found = []
    if findings.options.quick:
        found.append("a quick run: shorter, and with fewer connections than its titles say")
    others = [v["others"] for round_ in findings.rounds for v in round_.values() if "others" in v]
    if others and max(others) > NOISY:
        found.append(f"not a quiet machine: other processes used up to {100 * max(others):.0f} % of a core")
    loads = [v["load"] for round_ in findings.rounds for v in round_.values() if "load" in v]
    if loads and max(loads) > SATURATED:
        found.append(f"the core of the load was used up to {100 * max(loads):.0f} %")
    return found


def goals(findings: Findings) -> list[dict[str, Any]]:
    """Each goal with what was reached: its median over the rounds decides."""
    found = []
    for goal in findings.question.goals:
        figures = [value for round_ in findings.rounds if (value := goal.value(round_)) is not None]
        reached = Spread.of(figures)
        found.append(
            {
                "goal": goal.title,
                "bound": f"{goal.sense} {goal.bound:g}",
                "reached": asdict(reached) if reached else None,
                "holds": goal.holds(reached.median) if reached else None,
            }
        )
    return found


def text(findings: Findings) -> str:
    """The tables, the goals, and what failed or was absent."""
    parts = [findings.question.title]
    if findings.prepared:
        parts.append(", ".join(f"{name}: {_number(value)}" for name, value in findings.prepared.items()))
    parts += [_block(findings, metric) for metric in findings.question.metrics]
    parts += filter(None, [_busy(findings)])
    rows = [["goal", "bound", "median (min … max)", "verdict"]]
    for goal in goals(findings):
        reached = Spread(**goal["reached"]) if goal["reached"] else None
        verdict = {True: "reached", False: "MISSED", None: "not measured"}[goal["holds"]]
        rows.append([goal["goal"], goal["bound"], _cell(reached, lambda value: f"{value:.3g}"), verdict])
    if len(rows) > 1:
        parts.append(_table(rows))
    parts += [f"warning: {text}" for text in warnings(findings)]
    parts += [f"absent: {name}: {why}" for name, why in findings.absent.items()]
    parts += [f"FAILED: {name}: {why}" for name, why in findings.failed.items()]
    return "\n\n".join(parts)


def write(findings: Findings) -> Path:
    """Write the JSON file; return its path."""
    question = findings.question
    build.RESULTS.mkdir(exist_ok=True)
    path = build.RESULTS / f"{question.name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    summary = {
        case.name: {
            metric.name: {
                "value": _plain(spread(findings, case.name, metric.name)),
                "ours_to_it": _plain(ratios(findings, metric.name, question.ours, case.name)),
                "it_to_limit": _plain(ratios(findings, metric.name, case.name, question.limit)),
            }
            for metric in question.metrics
        }
        for case in findings.cases
    }
    content = {
        "question": question.name,
        "title": question.title,
        "machine": machine.describe(),
        "options": asdict(findings.options),
        "seconds": findings.seconds,
        "prepared": findings.prepared,
        "metrics": [asdict(metric) for metric in question.metrics],
        "summary": summary,
        "goals": goals(findings),
        "warnings": warnings(findings),
        "failed": findings.failed,
        "absent": findings.absent,
        "rounds": findings.rounds,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def _plain(value: Spread | None) -> dict[str, float] | None:
    return asdict(value) if value else None
