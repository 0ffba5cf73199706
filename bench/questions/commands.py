"""How many commands in a second, decoded, authorised, put in order, kept and answered?

50 connections publish, each to a room of its own that nobody is in, with a reply. Beside
it, the same bytes through a bare echo of websockets on uvloop, which does not look at them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bench.dialect import Dialect
from bench.generator import Plan
from bench.question import Case, Goal, Metric, Options, Question, ratio
from bench.session import session
from bench.subjects import ECHOES, OURS_JSON, SUBJECTS

CONNECTIONS = 50
WARM_UP = 0.3

_ECHO = replace(ECHOES["websockets"], dialect=Dialect(publish=OURS_JSON.publish, answer=b'"id":'))


def _measure(case: Case, options: Options, _: Mapping[str, float]) -> dict[str, float]:
    dialect = case.subject.dialect
    plan = Plan([dialect], dialect, publishers=CONNECTIONS, ordered=False)
    found: dict[str, float] = {}
    with session(case.subject, plan) as bench:
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
    name="commands",
    title=f"Commands: publish with reply, {CONNECTIONS} connections",
    metrics=(
        Metric("one", "1 in flight on each", "commands/s"),
        Metric("many", "16 in flight on each", "commands/s"),
        Metric("one_cpu", "Server CPU per command, 1 in flight", "µs", "lower"),
        Metric("many_cpu", "Server CPU per command, 16 in flight", "µs", "lower"),
    ),
    cases=(
        Case("ours", SUBJECTS["ours"]),
        Case("ours-cbor", SUBJECTS["ours-cbor"]),
        Case("websockets-echo", _ECHO),
    ),
    goals=(
        Goal("JSON, 1 in flight ÷ bare echo", ratio("one", "ours", "websockets-echo"), ">=", 1.0),
        Goal("JSON, 16 in flight ÷ bare echo", ratio("many", "ours", "websockets-echo"), ">=", 1.0),
        Goal("CBOR, 1 in flight ÷ bare echo", ratio("one", "ours-cbor", "websockets-echo"), ">=", 0.8),
        Goal("CBOR, 16 in flight ÷ bare echo", ratio("many", "ours-cbor", "websockets-echo"), ">=", 0.8),
    ),
    measure=_measure,
    limit="websockets-echo",
)
