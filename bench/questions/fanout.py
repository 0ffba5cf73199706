"""How many deliveries in a second, when one event goes to 500 subscribers of a room?

Once with the next publish after the last flush of the one before (1 in flight), once with 64
in flight, where a server may batch. Ours is authenticated and keeps order, history, filters and
accounts; the peers do none of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.generator import Plan
from bench.question import Case, Goal, Metric, Options, Question, cases, ratio
from bench.session import session
from bench.subjects import SUBJECTS

SUBSCRIBERS = 500
WARM_UP = 0.3
"""Seconds of traffic before each measurement."""


def _measure(case: Case, options: Options, _: Mapping[str, float]) -> dict[str, float]:
    dialect = case.subject.dialect
    plan = Plan([dialect], dialect, count=SUBSCRIBERS)
    found: dict[str, float] = {}
    with session(case.subject, plan) as bench:
        bench.connect(receivers=SUBSCRIBERS, publishers=1)
        for metric, in_flight in (("one", 1), ("many", 64)):
            bench.window(in_flight, WARM_UP)
            outcome = bench.window(in_flight, options.seconds)
            found[metric] = outcome.per_second("deliveries")
            found[f"{metric}_p99_ms"] = 1e3 * outcome.load["p99"]
            found[f"{metric}_cpu"] = 1e6 * outcome.server_cpu / outcome.load["deliveries"]
            for who, share in outcome.shares().items():
                found[f"{metric}_{who}"] = share
                found[who] = max(share, found.get(who, 0.0))
    return found


QUESTION = Question(
    name="fanout",
    title=f"Fan-out: one 150-byte event to {SUBSCRIBERS} subscribers",
    metrics=(
        Metric("one", "One event at a time", "deliveries/s"),
        Metric("many", "64 events in flight", "deliveries/s"),
        Metric("one_cpu", "Server CPU per delivery, one at a time", "µs", "lower"),
        Metric("many_cpu", "Server CPU per delivery, 64 in flight", "µs", "lower"),
    ),
    cases=cases(
        SUBJECTS,
        ("ours", "limit", "picows", "websockets", "centrifugo", "fastapi", "socketio", "trio-websocket"),
        optional=("ours-cbor", "limit-batch"),
    ),
    goals=(
        Goal("one at a time ÷ C send loop", ratio("one", "ours", "limit"), ">=", 0.9),
        Goal("one at a time ÷ picows", ratio("one", "ours", "picows"), ">=", 1.1),
        Goal("one at a time ÷ python-socketio", ratio("one", "ours", "socketio"), ">=", 8),
        Goal("one at a time ÷ Centrifugo", ratio("one", "ours", "centrifugo"), ">=", 1.0),
        Goal("64 in flight ÷ picows", ratio("many", "ours", "picows"), ">=", 4),
        Goal("64 in flight ÷ Centrifugo", ratio("many", "ours", "centrifugo"), ">=", 2),
    ),
    measure=_measure,
)
