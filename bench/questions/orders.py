"""Is an organisation's order as fast as a room's? One event to 500 connections, published by a service.

All are in the same room, and in the same organisation; only where the event goes to differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bench.generator import Plan
from bench.question import Case, Goal, Metric, Options, Question, ratio
from bench.session import session
from bench.subjects import SUBJECTS

SUBSCRIBERS = 500
WARM_UP = 0.3


def _measure(case: Case, options: Options, _: Mapping[str, float]) -> dict[str, float]:
    dialect = case.subject.dialect
    if case.name == "organisation":
        dialect = replace(dialect, publish=dialect.publish.replace(b'"room":"bench-%r",', b""))
    plan = Plan([dialect], dialect, count=SUBSCRIBERS, roles=("service",))
    found: dict[str, float] = {}
    with session(case.subject, plan) as bench:
        bench.connect(receivers=SUBSCRIBERS, publishers=1)
        for metric, in_flight in (("one", 1), ("many", 64)):
            bench.window(in_flight, WARM_UP)
            outcome = bench.window(in_flight, options.seconds)
            found[metric] = outcome.per_second("deliveries")
            found[f"{metric}_cpu"] = 1e6 * outcome.server_cpu / outcome.load["deliveries"]
            for who, share in outcome.shares().items():
                found[who] = max(share, found.get(who, 0.0))
    return found


QUESTION = Question(
    name="orders",
    title=f"Fan-out to an organisation of {SUBSCRIBERS}, beside a room of {SUBSCRIBERS}",
    metrics=(
        Metric("one", "One event at a time", "deliveries/s"),
        Metric("many", "64 events in flight", "deliveries/s"),
        Metric("one_cpu", "Server CPU per delivery, one at a time", "µs", "lower"),
        Metric("many_cpu", "Server CPU per delivery, 64 in flight", "µs", "lower"),
    ),
    cases=tuple(Case(name, SUBJECTS["ours"], title=name) for name in ("room", "organisation")),
    goals=(
        Goal("one at a time, organisation ÷ room", ratio("one", "organisation", "room"), ">=", 0.95),
        Goal("64 in flight, organisation ÷ room", ratio("many", "organisation", "room"), ">=", 0.95),
    ),
    measure=_measure,
    ours="organisation",
    limit="room",
)
