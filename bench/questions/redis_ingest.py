"""How many distinct messages in a second go through one Redis into one node?

A process publishes them to 64 rooms, each with one subscriber at the node, which has a core for itself. Ours
publishes with the gateway's broker and nothing around it (the writing side of a node), python-socketio
with its write-only manager, Centrifugo through the server API of a second node, in batches. All of these,
Redis and the load share the other core. The clock stops when the last subscriber has its last message.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.cluster import fed
from bench.feeders.commands import FEEDERS
from bench.generator import Plan
from bench.machine import BenchError
from bench.question import Case, Goal, Metric, Options, Question, plain
from bench.session import Outcome
from bench.subjects import through_redis

ROOMS = 64
WARM_UP = 2_000
STEPS = 2
"""Runs that find how many messages fill a measurement: the first one's are too few to tell."""
SETTLE = 0.5


def _measure(case: Case, options: Options, _: Mapping[str, float]) -> dict[str, float]:
    dialect = case.subject.dialect
    plan = Plan([dialect], dialect, count=ROOMS, rooms=ROOMS, members=1, publishers=0)
    feeder, through = FEEDERS[case.subject.name]
    with fed(case.subject, plan, feeder, through=through) as (bench, helper):
        bench.connect(receivers=ROOMS)
        bench.idle(SETTLE)

        def publish(count: int) -> Outcome:
            return bench.arrive(
                count, lambda first: helper.command(f"publish {first} {count} {ROOMS}", timeout=60)
            )

        count = WARM_UP
        for _step in range(STEPS):
            rate = publish(count).per_second("messages")
            count = max(WARM_UP, int(options.seconds * rate))
        outcome = publish(count)
    messages = outcome.load["deliveries"]
    if messages != count:
        raise BenchError(f"{messages} of {count} messages arrived, the others were announced as lost")
    found = {"rate": outcome.per_second("messages"), "node": 1e6 * outcome.server_cpu / messages}
    for who, cpu in outcome.beside_cpu.items():
        found[who] = 1e6 * cpu / messages
    found["publishing"] = found["feeder"] + found.pop("second", 0.0)
    return {**found, **{who: outcome.shares()[who] for who in ("server", "load", "others")}}


QUESTION = Question(
    name="redis-ingest",
    title=f"Distinct messages of 150 bytes through Redis into one node, {ROOMS} rooms",
    metrics=(
        Metric("rate", "Messages", "messages/s"),
        Metric("node", "CPU per message of the node that delivers", "µs", "lower"),
        Metric("publishing", "CPU per message of who publishes", "µs", "lower"),
        Metric("redis", "CPU per message of Redis", "µs", "lower"),
    ),
    cases=tuple(Case(f"{name}-redis", through_redis(name)) for name in ("ours", "centrifugo", "socketio")),
    goals=(Goal("messages/s", plain("rate", "ours-redis"), ">=", 50_000),),
    measure=_measure,
    ours="ours-redis",
    limit="",
)
