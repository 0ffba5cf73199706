"""What does a connection cost the server, and does it stand a storm?

5,000 clients connect at once, present a token (ours and Centrifugo: HS256), join a room and wait
for the answer. A single refusal fails the run.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.generator import Plan
from bench.question import Case, Goal, Metric, Options, Question, cases, plain
from bench.session import session
from bench.subjects import SUBJECTS

STORM = 5000


def _measure(case: Case, options: Options, _: Mapping[str, float]) -> dict[str, float]:
    dialect = case.subject.dialect
    storm = options.count(STORM, 1000)
    with session(case.subject, Plan([dialect], dialect, count=50 + storm)) as bench:
        bench.connect(receivers=50)
        outcome = bench.connect(receivers=50 + storm, at_once=storm)
    return {
        "cpu": 1e6 * outcome.server_cpu / storm,
        "seconds": outcome.seconds,
        "p99": outcome.load["p99"],
        **outcome.shares(),
    }


QUESTION = Question(
    name="connect",
    title=f"Connecting: a storm of {STORM:,}, each with a token and a join",
    metrics=(
        Metric("cpu", "Server CPU per connection", "µs", "lower"),
        Metric("seconds", "Until all are served", "s", "lower"),
    ),
    cases=cases(
        SUBJECTS,
        ("ours", "picows", "websockets", "centrifugo", "fastapi", "socketio", "trio-websocket"),
        optional=("ours-cbor", "limit"),
    ),
    goals=(Goal("server CPU per connection, µs", plain("cpu", "ours"), "<=", 400.0),),
    measure=_measure,
)
