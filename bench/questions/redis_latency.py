"""How long does a delivery take from one node to another through a local Redis, at 1,000 messages/s?

The publisher is connected to one node, ten subscribers to the other, which has a core for itself. Latency
counts from when a message was due to when a subscriber has it. ``ours`` is one node alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.cluster import joined
from bench.generator import Plan
from bench.question import Case, Goal, Metric, Options, Question, plain
from bench.session import session
from bench.subjects import SUBJECTS, through_redis

SUBSCRIBERS = 10
RATE = 1000.0
WARM_UP = 0.5
SETTLE = 0.5


def _measure(case: Case, options: Options, _: Mapping[str, float]) -> dict[str, float]:
    dialect = case.subject.dialect
    plan = Plan([dialect], dialect, count=SUBSCRIBERS)
    redis = case.settings["redis"]
    with joined(case.subject, plan, second=True) if redis else session(case.subject, plan) as bench:
        bench.connect(receivers=SUBSCRIBERS, publishers=1)
        bench.idle(SETTLE)
        bench.rate(RATE, WARM_UP)
        outcome = bench.rate(RATE, 2 * options.seconds)
    percentiles = {name: 1e3 * outcome.load[name] for name in ("p50", "p99", "p999", "max")}
    return {**percentiles, **outcome.shares()}


QUESTION = Question(
    name="redis-latency",
    title=f"Latency from node to node through Redis, {SUBSCRIBERS} subscribers, {RATE:,.0f} messages/s",
    metrics=(
        Metric("p50", "p50", "ms", "lower"),
        Metric("p99", "p99", "ms", "lower"),
        Metric("p999", "p99.9", "ms", "lower"),
        Metric("max", "Slowest of all", "ms", "lower"),
    ),
    cases=(
        Case("ours-redis", through_redis("ours"), settings={"redis": 1}),
        Case("centrifugo-redis", through_redis("centrifugo"), settings={"redis": 1}),
        Case("socketio-redis", through_redis("socketio"), settings={"redis": 1}),
        Case("ours", SUBJECTS["ours"], settings={"redis": 0}),
    ),
    goals=(
        Goal("p50 from node to node (ms)", plain("p50", "ours-redis"), "<=", 2.0),
        Goal("p99 from node to node (ms)", plain("p99", "ours-redis"), "<=", 10.0),
    ),
    measure=_measure,
    ours="ours-redis",
    limit="ours",
)
