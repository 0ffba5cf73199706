"""How fast is the wire layer by itself? ``bench.echo`` beside the echoes of other libraries.

100-byte text frames over 50 connections.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.generator import Plan
from bench.question import Case, Goal, Metric, Options, Question, cases, ratio
from bench.session import session
from bench.subjects import ECHOES

CONNECTIONS = 50
WARM_UP = 0.3


def _measure(case: Case, options: Options, _: Mapping[str, float]) -> dict[str, float]:
    dialect = case.subject.dialect
    found: dict[str, float] = {}
    with session(case.subject, Plan([dialect], dialect, publishers=CONNECTIONS)) as bench:
        bench.connect(publishers=CONNECTIONS)
        for metric, in_flight in (("one", 1), ("many", 16)):
            bench.echo(in_flight, WARM_UP)
            outcome = bench.echo(in_flight, options.seconds)
            found[metric] = outcome.per_second("echoes")
            found[f"{metric}_p99_ms"] = 1e3 * outcome.load["p99"]
            found[f"{metric}_cpu"] = 1e6 * outcome.server_cpu / outcome.load["echoes"]
            for who, share in outcome.shares().items():
                found[who] = max(share, found.get(who, 0.0))
    return found


QUESTION = Question(
    name="echo",
    title=f"Echo: 100-byte frames, {CONNECTIONS} connections",
    metrics=(
        Metric("one", "1 in flight on each", "echoes/s"),
        Metric("many", "16 in flight on each", "echoes/s"),
        Metric("one_cpu", "Server CPU per echo, 1 in flight", "µs", "lower"),
        Metric("many_cpu", "Server CPU per echo, 16 in flight", "µs", "lower"),
    ),
    cases=cases(ECHOES, ("ours", "picows", "websockets"), optional=("trio-websocket",)),
    goals=(
        Goal("1 in flight ÷ picows", ratio("one", "ours", "picows"), ">=", 1.0),
        Goal("16 in flight ÷ picows", ratio("many", "ours", "picows"), ">=", 0.8),
    ),
    measure=_measure,
    limit="picows",
)
