"""How many notifications in a second are stored, and how long do a user's list and count take?

No server and no socket: the store by itself, in this process. 200 producers create one notification each
time, and go on when it is committed (with its row in the outbox, which the next commits delete again); then
the same with a commit for each row. The list and the count are those of a user who has 10,000 among
``TRIREME_BENCH_ROWS`` rows (1,000,000; quick: 50,000), asked one after the other.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

import trio
from msgspec.structs import replace
from sqlalchemy import create_engine, text

from bench import postgres
from bench.machine import BenchError
from bench.question import Case, Goal, Metric, Options, Question, plain
from bench.server import Command
from bench.subjects import OURS_JSON, Subject
from gateway.app import tune_interpreter
from gateway.config.settings import StoreSettings
from gateway.store import Store, migrate
from gateway.store.tables import notifications
from protocol.errors import ProtocolError

PRODUCERS: Final = 200
HEAVY: Final = 10_000
ASKED: Final = 1000
_FILLED: dict[str, str] = {}
"""Kind of database → the address of the filled one."""
_FRESH: dict[str, Callable[[], str]] = {}
_open = contextlib.ExitStack()

# Half of the rows are read; the user's rows lie evenly among those of 100,000 others.
_FILL: Final = """
INSERT INTO notifications (id, org, user_id, mid, type, title, message, created_ms, read_ms)
SELECT CAST(1700000000000 + i AS bigint) * 1048576, 'acme',
    CASE WHEN i % :every = 0 THEN 'heavy' ELSE 'u' || (i * 7919 % 100000) END,
    'm' || (1000000000 + i), CASE WHEN i % 5 = 0 THEN 'error' ELSE 'info' END, 'A title',
    '{pad}', 1700000000000 + i, CASE WHEN i / :every % 2 = 0 THEN 1 END
FROM {series}
"""
_SERIES: Final = {
    "sqlite": "(WITH RECURSIVE s(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM s WHERE i < :last)"
    " SELECT i FROM s)",
    "postgresql": "generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS s(i)",
}
_CHUNK: Final = 500_000
# Nothing of the filling needs to survive a crash.
_HASTE: Final = {
    "sqlite": ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", "PRAGMA cache_size = -1000000"),
    "postgresql": ("SET synchronous_commit = off", "SET maintenance_work_mem = '1GB'"),
}


def _fill(address: str, rows: int, say: Callable[[str], None]) -> None:
    engine = create_engine(address)
    kind = engine.dialect.name
    statement = text(_FILL.format(series=_SERIES[kind], pad="m" * 200))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for each in _HASTE[kind]:
            connection.execute(text(each))
        # Sorted once at the end, which takes a tenth of keeping them while rows come.
        for index in notifications.indexes:
            index.drop(connection)
        for first in range(1, rows + 1, _CHUNK):
            last = min(first + _CHUNK - 1, rows)
            connection.execute(statement, {"first": first, "last": last, "every": rows // HEAVY})
            say(f"{kind}: {last:,} rows")
        for index in notifications.indexes:
            index.create(connection)
            say(f"{kind}: {index.name}")
        connection.execute(text("ANALYZE" if kind == "sqlite" else "VACUUM ANALYZE"))
    engine.dispose()


def _file(folder: str, numbers: Iterator[int]) -> str:
    return f"sqlite:///{folder}/{next(numbers)}.db"


def _prepare(cases: Sequence[Case], options: Options, say: Callable[[str], None]) -> Mapping[str, float]:
    atexit.register(_open.close)
    rows = int(os.environ.get("TRIREME_BENCH_ROWS", "0")) or options.count(1_000_000, 50_000)
    for case in cases:
        if case.name == "sqlite":
            folder = _open.enter_context(tempfile.TemporaryDirectory())
            _FRESH[case.name] = partial(_file, folder, itertools.count(1))
        else:
            _FRESH[case.name] = _open.enter_context(postgres.server())
        _FILLED[case.name] = address = _FRESH[case.name]()
        migrate(address)
        _fill(address, rows, say)
    return {"rows": rows}


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def _insert(address: str, settings: StoreSettings, seconds: float) -> dict[str, float]:
    waits: list[float] = []
    lags: list[float] = []
    end = 0.0

    async def produce(store: Store, number: int) -> None:
        while (begun := time.perf_counter()) < end:
            created = await store.notifications.create(
                *("acme", [f"user-{number}"]),
                type="info", title="A title", message="m" * 200, data={"pad": "x" * 100},
            )  # fmt: skip
            waits.append(time.perf_counter() - begun)
            store.outbox.done([entry.id for entry in created.entries])

    async def watch() -> None:
        while (begun := time.perf_counter()) < end:
            await trio.sleep(0.002)
            lags.append(time.perf_counter() - begun - 0.002)

    async with Store.open(address, settings, retention=False) as store:
        begun = time.perf_counter()
        end = begun + seconds
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            for number in range(PRODUCERS):
                nursery.start_soon(produce, store, number)
        elapsed = time.perf_counter() - begun
    return {
        "rate": len(waits) / elapsed,
        "ack50": 1000 * _percentile(waits, 0.5),
        "ack99": 1000 * _percentile(waits, 0.99),
        "lag99": 1000 * _percentile(lags, 0.99),
    }


async def _ask(address: str) -> dict[str, float]:
    found: dict[str, float] = {}

    async def each(name: str, question: Callable[[], Awaitable[object]]) -> None:
        times = []
        for _ in range(ASKED):
            begun = time.perf_counter()
            await question()
            times.append(1000 * (time.perf_counter() - begun))
        found[f"{name}50"], found[f"{name}99"] = _percentile(times, 0.5), _percentile(times, 0.99)

    async with Store.open(address, StoreSettings(), retention=False) as store:
        listed = store.notifications.list
        if not (await listed("acme", "heavy")).next:
            raise BenchError("the user of the lists has no notifications")
        await each("list", lambda: listed("acme", "heavy"))
        await each("unread", lambda: listed("acme", "heavy", unread=True, type="error"))
        await each("count", lambda: store.notifications.unread_count("acme", "heavy"))
    return found


def _measure(case: Case, options: Options, _: Mapping[str, float]) -> dict[str, float]:
    def fresh() -> str:
        address = _FRESH[case.name]()
        migrate(address)
        return address

    tune_interpreter()
    # On a busy machine a row of its own may wait for long behind 199 others.
    patient = StoreSettings(timeout=60)
    try:
        found = trio.run(_insert, fresh(), patient, options.seconds)
        single = trio.run(_insert, fresh(), replace(patient, group=1), options.seconds)
        asked = trio.run(_ask, _FILLED[case.name])
    except* ProtocolError as errors:
        raise BenchError(f"{case.name}: {errors.exceptions[0]}") from None
    return found | asked | {"single": single["rate"], "ratio": found["rate"] / single["rate"]}


def _no_server(_: object) -> Command:
    raise BenchError("the store has no server")


QUESTION = Question(
    name="store",
    title=f"Notifications stored by {PRODUCERS} producers; the list of a user with {HEAVY:,}",
    metrics=(
        Metric("rate", "Inserts acknowledged after their commit", "rows/s"),
        Metric("single", "The same with a commit for each row", "rows/s"),
        Metric("ratio", "The one divided by the other", ""),
        Metric("ack99", "Time to the acknowledgement, 99th percentile", "ms", "lower"),
        Metric("lag99", "Lag of the loop meanwhile, 99th percentile", "ms", "lower"),
        Metric("list99", "Page of 50, 99th percentile", "ms", "lower"),
        Metric("unread99", "Page of 50 unread errors, 99th percentile", "ms", "lower"),
        Metric("count99", "Unread count, 99th percentile", "ms", "lower"),
    ),
    cases=(
        Case("sqlite", Subject("sqlite", "SQLite", _no_server, OURS_JSON)),
        Case("postgresql", Subject("postgresql", "PostgreSQL", _no_server, OURS_JSON, postgres.missing)),
    ),
    goals=(
        Goal("SQLite, inserts/s", plain("rate", "sqlite"), ">=", 15_000),
        Goal("PostgreSQL, inserts/s", plain("rate", "postgresql"), ">=", 6_000),
        *(
            Goal(f"{name}, {what}", plain(metric, name), "<=", bound)
            for name in ("sqlite", "postgresql")
            for what, metric, bound in (
                ("loop lag p99 (ms)", "lag99", 15.0),
                ("list p99 (ms)", "list99", 5.0),
                ("unread count p99 (ms)", "count99", 5.0),
            )
        ),
    ),
    measure=_measure,
    prepare=_prepare,
    ours="",
    limit="",
)
