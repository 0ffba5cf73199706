"""What do 5,000 polls of 25 s cost that wait in vain? (A quick run: 500 of 5 s.)

Each client has polled before, so it shows a cursor, and a token that the server has seen. It polls a room
again and again, 10 to 110 ms after each answer, as over a network: over the connection that it has, or over a
new one for each poll. The clients begin one after the other; what is measured is one whole period after the
first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bench.question import Case, Goal, Metric, Options, Question, plain
from bench.questions.streams import SLACK, reading
from bench.subjects import SUBJECTS

POLLS: Final = 5000
PERIOD: Final = 25.0


def _measure(case: Case, options: Options, _: Mapping[str, float]) -> dict[str, float]:
    count, period = options.count(POLLS, 500), 5.0 if options.quick else PERIOD
    with reading(case.subject, POLLS) as (server, readers):
        readers.command(f"begin {case.name} {count} {period}", SLACK)
        readers.command(f"poll {1.5 * period}", SLACK)
        before = server.usage().cpu
        outcome = readers.command(f"poll {period}", SLACK)
        each = (server.usage().cpu - before) / outcome["polls"]
    return {"poll": 1e6 * each, "share": 100 * each * POLLS / PERIOD, "connections": outcome["connections"]}


QUESTION = Question(
    name="polls",
    title=f"{POLLS:,} idle polls of {PERIOD:g} s",
    metrics=(
        Metric("poll", "Server CPU of a poll that waits in vain", "µs", "lower"),
        Metric("share", f"Server CPU of {POLLS:,} polls", "% of a core", "lower"),
    ),
    cases=(
        Case("kept", SUBJECTS["ours"], title="over kept connections"),
        Case("fresh", SUBJECTS["ours"], title="a connection for each poll"),
    ),
    goals=(Goal("server CPU, % of a core", plain("share", "kept"), "<=", 12.0),),
    measure=_measure,
    ours="kept",
    limit="",
)
