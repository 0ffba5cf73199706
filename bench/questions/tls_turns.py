"""What does one organisation feel of another over TLS, and what over plain sockets?

The victim pings a thousand times a second, whatever the answers do, and each ping counts from when it was
due: pings that follow their answers would measure a long wait once, however many it stands for. Beside it
another organisation floods the node with pings from 40 connections, then sends events of 1 MB to 100 members,
then comes with connections, always 400 at once, until the last ping is answered. All that the other does runs
as idle on the same core as the victim, so that the delay is the server's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from bench.generator import Plan
from bench.question import Case, Goal, Metric, Options, Question, ratio
from bench.secure import SECURE
from bench.session import SLACK, session
from bench.subjects import OURS_JSON, SUBJECTS

FLOODERS, MEMBERS, NEWCOMERS = 40, 100, 400
WARM_UP: Final = 0.5
PINGS: Final = 1000
"""A second."""
FASTEST: Final = 2500
"""More connections in a second than the server can take in."""
_PING: Final = replace(OURS_JSON, publish=b'{"v":1,"t":"ping","id":%n}', answer=b'"id":')
_MORE: Final = "[overload]\nloop_lag = 0\n"
"""What a busy machine does to the node is not to be answered with refusals."""
_LARGE: Final = OURS_JSON.with_pad(1_000_000)


def _beside(
    case: Case, seconds: float, neighbour: Plan, connect: str, command: str | None
) -> dict[str, float]:
    """p50, p99 and the most that a ping takes beside ``command``, in ms; alone without one."""
    secure = case.subject.name in SECURE
    victim = Plan([_PING], _PING, org="victims", tls=secure)
    with session(case.subject, victim, replace(neighbour, org="others", tls=secure), more=_MORE) as bench:
        assert bench.neighbour is not None
        bench.connect(publishers=1)
        bench.echo(1, WARM_UP)
        bench.neighbour.command(f"connect {connect} at_once=64 timeout=60", 90)
        if command is not None:
            bench.neighbour.start(command)
            bench.echo_at(PINGS, WARM_UP)
        outcome = bench.echo_at(PINGS, seconds)
        if command is not None:
            bench.neighbour.finish(command, seconds + SLACK)
        return {name: 1e3 * outcome.load[name] for name in ("p50", "p99", "max")}


def _measure(case: Case, options: Options, _: Mapping[str, float]) -> dict[str, float]:
    seconds = options.seconds
    length = f"seconds={seconds + 3 * WARM_UP}"
    pings = Plan([_PING], _PING, publishers=FLOODERS)
    large = Plan([_LARGE], _LARGE, count=MEMBERS)
    newcomers = round(FASTEST * (seconds + WARM_UP))
    many = Plan([OURS_JSON], OURS_JSON, count=newcomers)
    come = f"connect receivers={newcomers} at_once={NEWCOMERS} timeout=60"
    situations = {
        "alone": _beside(case, seconds, many, "receivers=0", None),
        "flood": _beside(case, seconds, pings, f"publishers={FLOODERS}", f"echo window=64 {length}"),
        "large": _beside(
            case, seconds, large, f"receivers={MEMBERS} publishers=1", f"window window=1 {length}"
        ),
        "connects": _beside(case, seconds, many, "receivers=0", come),
    }
    return {f"{what}_{which}": ms for what, found in situations.items() for which, ms in found.items()}


QUESTION = Question(
    name="tls-turns",
    title=f"A ping beside another organisation, over TLS and plain: {FLOODERS} connections that flood, "
    f"1 MB to {MEMBERS} members, always {NEWCOMERS} at once that come",
    metrics=tuple(
        Metric(f"{what}_{which}", f"{which} of a ping {title}", "ms", "lower")
        for what, title in (
            ("alone", "alone"),
            ("flood", "beside a flood of pings"),
            ("large", f"beside events of 1 MB to {MEMBERS}"),
            ("connects", f"beside always {NEWCOMERS} at once that come"),
        )
        for which in ("p50", "p99", "max")
    ),
    cases=(Case("tls", SECURE["tls"]), Case("ours", SUBJECTS["ours"])),
    goals=tuple(
        Goal(f"{what}, {which}: TLS ÷ plain", ratio(f"{what}_{which}", "tls", "ours"), "<=", 1.5)
        for what in ("flood", "large", "connects")
        for which in ("p50", "p99")
    ),
    measure=_measure,
    ours="tls",
    limit="ours",
)
