"""Draws a run: one panel per metric, a bar per case, whiskers from the least to the most."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

from bench.harness import Findings
from bench.report import spread

mpl.use("Agg")

OURS, LIMIT, PEER = "#1b6ca8", "#999999", "#d9a441"


def draw(findings: Findings, path: Path) -> None:
    """Write a PNG."""
    from matplotlib import pyplot

    question = findings.question
    columns = min(2, len(question.metrics))
    lines = -(-len(question.metrics) // columns)
    height = 0.6 + lines * (1.2 + 0.3 * len(findings.cases))
    figure, axes = pyplot.subplots(lines, columns, figsize=(1.0 + 5 * columns, height), squeeze=False)
    for axis in axes.flat[len(question.metrics) :]:
        axis.set_visible(False)
    for axis, metric in zip(axes.flat, question.metrics, strict=False):
        names = [case.name for case in findings.cases]
        for place, name in enumerate(names):
            value = spread(findings, name, metric.name)
            if value is None:
                continue
            colour = OURS if name.startswith("ours") else LIMIT if name.startswith("limit") else PEER
            whiskers = [[value.median - value.least], [value.most - value.median]]
            axis.barh(place, value.median, color=colour, xerr=whiskers, error_kw={"capsize": 3, "lw": 1})
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.set_title(metric.title, fontsize=9)
        axis.set_xlabel(f"{metric.unit} ({metric.better} is better)", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
    figure.suptitle(question.title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
