"""``python -m bench --list`` names the questions; ``python -m bench fanout`` answers one."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence

from bench import build, executions, harness, instructions, micro, plot, report, selfcheck
from bench.machine import BenchError
from bench.question import Options
from bench.questions import QUESTIONS
from bench.soak import run as soak
from bench.soak.plan import Plan

SCRIPTS = {
    "micro": "Micro-benchmarks: codecs and frame cutter",
    "executions": "Lists and summaries of a million executions, with their plans (minutes)",
    "selfcheck": "Does the load generator notice lost, doubled and late messages? (a minute)",
    "soak": "Two nodes and 2,000 clients for half an hour of cuts and kills: is all flat, and nothing lost?",
    "instructions": "Instructions per delivery and per command, against what they were (needs valgrind)",
}
"""What has no rounds and no peers."""
PLOTS = build.HERE.parent / "docs" / "plots"


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="One question per run, peers beside ours."
    )
    parser.add_argument("question", nargs="*", help="one or several of --list")
    parser.add_argument("--list", action="store_true", help="name the questions and their subjects")
    parser.add_argument("--rounds", type=int, help="how often each subject is measured (5; quick: 2)")
    parser.add_argument("--seconds", type=float, help="length of one measurement (2; quick: 0.7; soak: 1800)")
    parser.add_argument("--connections", type=int, help="soak: clients (2,000; quick: 200)")
    parser.add_argument("--subjects", help="only these, separated by commas")
    parser.add_argument("--quick", action="store_true", help="a short run, to see that it works")
    parser.add_argument(
        "--patience", type=float, default=0.0, help="wait so long (s) for a quiet machine, each time"
    )
    parser.add_argument("--docs", action="store_true", help="keep the plot in docs/plots as well")
    parser.add_argument("--update", action="store_true", help="instructions: keep the counts as the baseline")
    return parser.parse_args(arguments)


def _list() -> None:
    for question in QUESTIONS.values():
        print(f"{question.name}: {question.title}")
        print("    " + ", ".join(case.name + " (optional)" * case.optional for case in question.cases))
    for name, title in SCRIPTS.items():
        print(f"{name}: {title}")


def _answer(name: str, chosen: argparse.Namespace) -> bool:
    """Answer one question; False when something failed."""
    if name == "micro":
        return micro.main() == 0
    if name == "executions":
        return executions.main() == 0
    if name == "selfcheck":
        return selfcheck.main() == 0
    if name == "instructions":
        return instructions.main(update=chosen.update) == 0
    if name == "soak":
        return _soak(chosen)
    if name not in QUESTIONS:
        raise BenchError(f"no question {name!r}; there are {', '.join([*QUESTIONS, *SCRIPTS])}")
    quick = bool(chosen.quick)
    options = Options(
        rounds=chosen.rounds or (2 if quick else 5),
        seconds=chosen.seconds or (0.7 if quick else 2.0),
        quick=quick,
        patience=chosen.patience,
    )
    names = chosen.subjects.split(",") if chosen.subjects else None
    findings = harness.run(QUESTIONS[name], options, names)
    path = report.write(findings)
    print(report.text(findings))
    written = [str(path)]
    picture = path.with_suffix(".svg")
    plot.draw(findings, picture)
    written.append(str(picture))
    if chosen.docs:
        PLOTS.mkdir(exist_ok=True)
        shutil.copy(picture, PLOTS / f"{name}.svg")
        written.append(str(PLOTS / f"{name}.svg"))
    print(f"\n{findings.seconds:.0f} s; written: {', '.join(written)}")
    return not findings.failed


def _soak(chosen: argparse.Namespace) -> bool:
    plan = Plan(
        seconds=chosen.seconds or (60.0 if chosen.quick else 1800.0),
        connections=chosen.connections or (200 if chosen.quick else 2000),
    )
    picture, good = soak.main(plan)
    if chosen.docs:
        shutil.copy(picture, PLOTS / "soak.svg")
    return good


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 when every subject was measured, 1 when a run failed."""
    chosen = _arguments(arguments)
    if chosen.list or not chosen.question:
        _list()
        return 0
    try:
        answers = [_answer(name, chosen) for name in chosen.question]
    except BenchError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    return 0 if all(answers) else 1


if __name__ == "__main__":
    sys.exit(main())
