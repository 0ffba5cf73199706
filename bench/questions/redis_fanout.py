"""How many deliveries in a second, when a node has its messages through Redis?

One event goes to 500 subscribers of a node that has a core for itself. Alone, the publisher is connected
to it; with Redis, to a second node on the core of the load, beside Redis (``ours-redis-same``: to the
node itself, which then writes to Redis as well). What is left of the deliveries alone is what is asked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from bench.cluster import joined
from bench.generator import Plan
from bench.question import Case, Goal, Metric, Options, Question, ratio
from bench.session import session
from bench.subjects import SUBJECTS, through_redis

SUBSCRIBERS = 500
WARM_UP = 0.3
SETTLE = 0.5
"""Seconds that subscriptions in Redis may take where nobody is told that they are there."""


def _measure(case: Case, options: Options, _: Mapping[str, float]) -> dict[str, float]:
    dialect = case.subject.dialect
    plan = Plan([dialect], dialect, count=SUBSCRIBERS)
    found: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        if case.settings["redis"]:
            bench = stack.enter_context(joined(case.subject, plan, second=bool(case.settings["second"])))
        else:
            bench = stack.enter_context(session(case.subject, plan))
        bench.connect(receivers=SUBSCRIBERS, publishers=1)
        bench.idle(SETTLE)
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


_ALONE = {"redis": 0.0, "second": 0.0}
_SECOND = {"redis": 1.0, "second": 1.0}
_SAME = {"redis": 1.0, "second": 0.0}

QUESTION = Question(
    name="redis-fanout",
    title=f"Fan-out through Redis: one 150-byte event to {SUBSCRIBERS} subscribers of one node",
    metrics=(
        Metric("one", "One event at a time", "deliveries/s"),
        Metric("many", "64 events in flight", "deliveries/s"),
        Metric("one_cpu", "The node's CPU per delivery, one at a time", "µs", "lower"),
        Metric("many_cpu", "The node's CPU per delivery, 64 in flight", "µs", "lower"),
    ),
    cases=tuple(
        Case(name + suffix, through_redis(name) if settings["redis"] else SUBJECTS[name], settings=settings)
        for name, suffix, settings in (
            ("ours", "", _ALONE),
            ("ours", "-redis", _SECOND),
            ("ours", "-redis-same", _SAME),
            ("centrifugo", "", _ALONE),
            ("centrifugo", "-redis", _SECOND),
            ("socketio", "", _ALONE),
            ("socketio", "-redis", _SECOND),
        )
    ),
    goals=(
        Goal("one at a time, through Redis ÷ alone", ratio("one", "ours-redis", "ours"), ">=", 0.6),
        Goal("64 in flight, through Redis ÷ alone", ratio("many", "ours-redis", "ours"), ">=", 0.6),
        Goal(
            "the same, published at the node itself",
            ratio("many", "ours-redis-same", "ours"),
            ">=",
            0.6,
        ),
    ),
    measure=_measure,
    ours="ours-redis",
    limit="ours",
)
