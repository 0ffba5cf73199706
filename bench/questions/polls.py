"""What do 5,000 polls of 25 s cost that wait in vain? (A quick run: 500 of 5 s.)

Each client has polled before, so it shows a cursor, and a token that the server has seen. Its poll comes
over a connection of its own, enters a room, and is answered with nothing. They are begun one after the other,
as they would be in life, so each is measured once.
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
        readers.command(f"begin {count}", SLACK)
        readers.command(f"poll {count // 10} {period / 5}", SLACK)
        before = server.usage().cpu
        readers.command(f"poll {count} {period}", SLACK)
        each = (server.usage().cpu - before) / count
    return {"poll": 1e6 * each, "share": 100 * each * POLLS / PERIOD}


QUESTION = Question(
    name="polls",
    title=f"{POLLS:,} idle polls of {PERIOD:g} s",
    metrics=(
        Metric("poll", "Server CPU of a poll that waits in vain", "µs", "lower"),
        Metric("share", f"Server CPU of {POLLS:,} polls", "% of a core", "lower"),
    ),
    cases=(Case("ours", SUBJECTS["ours"]),),
    goals=(Goal("server CPU, % of a core", plain("share", "ours"), "<=", 12.0),),
    measure=_measure,
    limit="",
)
