"""Does a delivery cost the same in a large system as in a small one?

Server CPU per delivery, one message in flight: over the number of rooms (10 members each, 1,000
connections that share them), over the number of connections in one room, and over the codecs of the
receivers. The C send loop over the same connections shows what of a rise is the kernel's.

A cost is the least of several windows: neighbours on the machine only ever add to it, and the ratio of the
largest to the smallest of many noisy figures says more of the noise than of the server.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.generator import Plan
from bench.machine import BenchError
from bench.question import Case, Goal, Metric, Options, Question, spread
from bench.session import Outcome, session
from bench.subjects import OURS_CBOR, OURS_JSON, SUBJECTS

ROOMS = (1, 10, 100, 1000, 10000)
MEMBERS = 10
SHARED_BY = 1000
CONNECTIONS = (100, 1000, 10000)
CODECS = {"json": (OURS_JSON,), "cbor": (OURS_CBOR,), "mixed": (OURS_JSON, OURS_CBOR)}
WARM_UP = 0.5
WINDOWS = 4


def _measure(case: Case, options: Options, _: Mapping[str, float]) -> dict[str, float]:
    settings = case.settings
    dialects = CODECS.get(case.name.removeprefix("ours-"), (case.subject.dialect,))
    rooms, count = int(settings.get("rooms", 1)), int(settings["connections"])
    members = MEMBERS if "rooms" in settings else count
    plan = Plan(dialects, case.subject.dialect, count=count, rooms=rooms, members=members)
    with session(case.subject, plan) as bench:
        bench.connect(receivers=count, publishers=1)
        bench.window(1, WARM_UP)
        windows = [bench.window(1, options.seconds / WINDOWS) for _ in range(WINDOWS)]
    if not all(window.load["deliveries"] for window in windows):
        raise BenchError("nothing was delivered")
    best = min(windows, key=_cost)
    return {"cpu": _cost(best), "rate": best.per_second("deliveries"), **best.shares()}


def _cost(window: Outcome) -> float:
    return 1e6 * window.server_cpu / float(window.load["deliveries"])


OURS, LIMIT = SUBJECTS["ours"], SUBJECTS["limit"]
_rooms = tuple(Case(f"rooms-{n}", OURS, settings={"rooms": n, "connections": SHARED_BY}) for n in ROOMS)
_connections = tuple(Case(f"connections-{n}", OURS, settings={"connections": n}) for n in CONNECTIONS)
_codecs = tuple(Case(f"ours-{name}", OURS, settings={"connections": 1000}) for name in CODECS)
_limits = tuple(Case(f"limit-{n}", LIMIT, settings={"connections": n}) for n in CONNECTIONS)

QUESTION = Question(
    name="scaling",
    title="Cost of a delivery over rooms, connections and codecs",
    metrics=(
        Metric("cpu", "Server CPU per delivery", "µs", "lower"),
        Metric("rate", "Deliveries", "deliveries/s"),
    ),
    cases=(*_rooms, *_connections, *_limits, *_codecs),
    goals=(
        Goal("1 … 10,000 rooms, largest ÷ smallest", spread("cpu", *(c.name for c in _rooms)), "<=", 1.3),
        Goal("100 … 10,000 connections", spread("cpu", *(c.name for c in _connections)), "<=", 1.3),
        Goal("JSON, CBOR, mixed", spread("cpu", *(c.name for c in _codecs)), "<=", 1.3),
        Goal("the C send loop, 100 … 10,000", spread("cpu", *(c.name for c in _limits)), "<=", 1.3),
    ),
    measure=_measure,
    ours="connections-1000",
    limit="limit-1000",
)
