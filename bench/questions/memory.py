"""What does an idle connection weigh, authenticated and in one room?

Resident memory of the server process with 1,000, 5,000 and 10,000 connections, less what it had with
100 (so that the program itself does not count), per connection. The kernel's part is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.generator import Plan
from bench.question import Case, Goal, Metric, Options, Question, cases, plain
from bench.session import session
from bench.subjects import SUBJECTS

STEPS = {"1k": 1000, "5k": 5000, "10k": 10000}
BASE = 100
SETTLE = 1.0
"""Seconds of silence before memory is read."""


def _measure(case: Case, options: Options, _: Mapping[str, float]) -> dict[str, float]:
    dialect = case.subject.dialect
    scale = 5 if options.quick else 1
    found: dict[str, float] = {}
    with session(case.subject, Plan([dialect], dialect, count=max(STEPS.values()))) as bench:
        bench.connect(receivers=BASE)
        base = bench.idle(SETTLE).rss
        for name, wanted in STEPS.items():
            count = wanted // scale
            bench.connect(receivers=count)
            found[name] = (bench.idle(SETTLE).rss - base) / (count - BASE) / 1000
    return found


def _flat(round_: Mapping[str, Mapping[str, float]]) -> float | None:
    if "ours" not in round_:
        return None
    sizes = [round_["ours"][name] for name in STEPS]
    return max(sizes) / min(sizes)


QUESTION = Question(
    name="memory",
    title="Memory of an idle connection in one room",
    metrics=tuple(Metric(name, f"{count:,} connections", "kB", "lower") for name, count in STEPS.items()),
    cases=cases(
        SUBJECTS,
        ("ours", "picows", "websockets", "centrifugo", "fastapi", "socketio", "trio-websocket"),
        optional=("ours-cbor",),
    ),
    goals=(
        *(Goal(f"kB at {name}", plain(name, "ours"), "<=", 12.0) for name in STEPS),
        Goal("largest ÷ smallest of the three", _flat, "<=", 1.3),
    ),
    measure=_measure,
)
