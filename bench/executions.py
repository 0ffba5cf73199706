"""Lists and summaries of many executions, on both databases, with the plans of the statements.

``python -m bench executions``; ``BENCH_ROWS=100000`` is a shorter run than the million of the default, and
``BENCH_DATABASES=sqlite`` leaves PostgreSQL out. Rows are spread over 60 days, 50 agents, 10 teams and 20
methods; the figures are what ``gateway.store`` takes, threads included.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import trio
from sqlalchemy import BigInteger, Column, MetaData, Table, Text, create_engine, text
from sqlalchemy.engine import Connection

from bench import postgres
from gateway.config.settings import StoreSettings
from gateway.store import Store, migrate
from gateway.store.executions import Filters
from gateway.store.executions.days import ANY, DAY_MS, NO_DURATION, bucket_of
from gateway.store.executions.queries import page, page_parameters, summary, summary_parameters
from gateway.store.executions.tables import ACTIVE, executions
from gateway.store.ids import first_of, now_ms
from gateway.store.rows import insert_new

ROWS = int(os.environ.get("BENCH_ROWS", "1000000"))
DATABASES = os.environ.get("BENCH_DATABASES", "sqlite,postgresql").split(",")
DAYS = 60
ASKED = 200
"""Times that each question is asked."""
LIST_MS, SUMMARY_MS = 20.0, 100.0
"""Goals: p99 of each list, and of the summary of 30 days."""
FILTERS: list[dict[str, Any]] = [
    {},
    {"agent": "agent-7"},
    {"team": "team-3"},
    {"method": "method-11"},
    {"status": "failed"},
    {"status": "running"},
    {"agent": "agent-7", "status": "failed"},
    {"team": "team-3", "status": "failed"},
    {"team": "team-3", "method": "method-11"},
    {"agent": "agent-7", "team": "team-3", "method": "method-11", "status": "failed"},
    {"agent": "agent-7", "method": "nothing"},
    {"agent": "nobody"},
]


_TEMPLATES = 99_991
"""Different rows, a prime: the database itself makes all others of them, in another order each time."""
_NUMBERS = {
    "sqlite": "(WITH RECURSIVE s(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM s WHERE i + 1 < :rows)"
    " SELECT i FROM s) AS s",
    "postgresql": "generate_series(CAST(0 AS bigint), CAST(:rows AS bigint) - 1) AS s(i)",
}
_CREATED = "(CAST(:start AS bigint) + CAST(:span AS bigint) * i / :rows)"
_ENDED = "i < :rows - :rows / 1000"
_FILL = f"""
INSERT INTO executions (number, org, id, agent, team, method, status, version, created_ms,
    started_ms, updated_ms, heartbeat_ms, duration_ms, finished_ms, bucket, updates_total, updates_cut,
    step, tools, input)
SELECT {_CREATED} * {first_of(1)} + i % 1000,
    CASE WHEN i < :rows / 100 THEN 'early' ELSE 'acme' END, 'e' || i, agent, team, method,
    CASE WHEN {_ENDED} THEN status ELSE 'running' END, 3, {_CREATED}, {_CREATED}, {_CREATED}, {_CREATED},
    CASE WHEN {_ENDED} THEN duration_ms END, CASE WHEN {_ENDED} THEN {_CREATED} + duration_ms END,
    CASE WHEN {_ENDED} THEN bucket ELSE {NO_DURATION} END, 0, 0, 'writing the report', '["search","browser"]',
    '{{"topic":"{"x" * 80}"}}'
FROM NUMBERS JOIN templates ON templates.number = i * 7919 % {_TEMPLATES}"""
_NAMES = ("agent", "team", "method")


def _fill(connection: Connection, now: int) -> None:
    dice = random.Random(1)
    columns = "number integer PRIMARY KEY, agent text, team text, method text, status text"
    columns += ", duration_ms bigint, bucket integer"
    connection.execute(text(f"CREATE TEMPORARY TABLE templates ({columns})"))
    templates = []
    for number in range(_TEMPLATES):
        duration = int(math.exp(dice.gauss(8, 1.5)))
        status = dice.choices(["completed", "failed", "cancelled"], [90, 8, 2])[0]
        named = {name: f"{name}-{dice.randrange(n)}" for name, n in zip(_NAMES, (50, 10, 20), strict=True)}
        more = {"duration_ms": duration, "bucket": bucket_of(duration)}
        templates.append({"number": number, "status": status, **named, **more})
    insert_new(connection, Table("templates", MetaData(), *_template_columns()), templates, ())
    for index in executions.indexes:  # made anew below, which takes less than to keep them up
        index.drop(connection)
    start = (now // DAY_MS - DAYS + 1) * DAY_MS
    parameters = {"rows": ROWS, "start": start, "span": now - start}
    connection.execute(text(_FILL.replace("NUMBERS", _NUMBERS[connection.dialect.name])), parameters)
    for index in executions.indexes:
        index.create(connection)
    for chosen in itertools.product((True, False), repeat=len(_NAMES)):
        choice = dict(zip(_NAMES, chosen, strict=True))
        names = [name for name in _NAMES if choice[name]]
        keys = ["org", *names, f"created_ms / {DAY_MS}", "status", "bucket"]
        shown = ", ".join(name if choice[name] else f"'{ANY}' AS {name}" for name in _NAMES)
        connection.execute(
            text(
                f"INSERT INTO execution_days SELECT org, {shown}, created_ms / {DAY_MS}, status, bucket,"
                " count(*), sum(duration_ms), min(duration_ms), max(duration_ms)"
                f" FROM executions WHERE NOT ({ACTIVE}) GROUP BY {', '.join(keys)} ORDER BY {', '.join(keys)}"
            )
        )


def _template_columns() -> Iterator[Column[Any]]:
    for name in ("number", "status", *_NAMES, "duration_ms", "bucket"):
        numeric = name in ("number", "duration_ms", "bucket")
        yield Column(name, BigInteger if numeric else Text)


async def _figures(ask: Callable[[], Awaitable[Any]]) -> tuple[float, float]:
    """Median and p99 in milliseconds."""
    await ask()
    taken = []
    for _ in range(ASKED):
        start = time.perf_counter()
        await ask()
        taken.append((time.perf_counter() - start) * 1000)
    taken.sort()
    return taken[ASKED // 2], taken[math.ceil(0.99 * ASKED) - 1]


async def _measure(address: str, now: int) -> bool:
    reached = True
    async with Store.open(address, StoreSettings(), retention=False) as store:
        first, until = (now // DAY_MS - 29) * DAY_MS, (now // DAY_MS + 1) * DAY_MS
        for given in FILTERS:
            names = ", ".join(f"{name} {value}" for name, value in given.items()) or "everything"
            wanted = Filters(**given)
            listing = partial(store.executions.list, "acme", wanted, limit=50, cursor=None)
            p50, p99 = await _figures(listing)
            month = Filters(first=first, until=until, **given)
            s50, s99 = await _figures(partial(store.executions.summary, "acme", month))
            print(f"  {names:58} {p50:7.1f} {p99:7.1f} {s50:9.1f} {s99:7.1f}", flush=True)
            reached = reached and p99 < LIST_MS and s99 < SUMMARY_MS
        p50, p99 = await _figures(partial(store.executions.list, "early", Filters(), limit=50, cursor=None))
        print(f"  {'everything of an organisation that has stopped':58} {p50:7.1f} {p99:7.1f}")
        reached = reached and p99 < LIST_MS
        part = Filters(first=first + DAY_MS // 2, until=until)
        s50, s99 = await _figures(partial(store.executions.summary, "acme", part))
        print(f"  {'everything, from the middle of a day':58} {'':7} {'':7} {s50:9.1f} {s99:7.1f}")
    return reached and s99 < SUMMARY_MS


def _plans(connection: Connection, now: int) -> None:
    explain = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
    first = (now // DAY_MS - 29) * DAY_MS
    chosen: list[tuple[str, dict[str, Any]]] = [
        ("acme", {}),
        ("early", {}),
        ("acme", {"agent": "agent-7", "status": "failed"}),
        ("acme", {"team": "team-3"}),
        ("acme", {"status": "failed"}),
    ]
    for org, given in chosen:
        postgres = connection.dialect.name == "postgresql"
        statement = page(Filters(**given), postgres=postgres).compile(dialect=connection.dialect)
        asked = page_parameters(org, Filters(**given), None, 51)
        print(f"  list of {org} {given}:")
        _show(connection, explain + str(statement), statement.construct_params(asked), statement)
    month = Filters(first=first, until=now)
    print("  summary:")
    found = connection.execute(text(explain + str(summary(month))), summary_parameters("acme", month, now))
    _print(found)


def _show(connection: Connection, sql: str, parameters: Any, compiled: Any) -> None:
    if compiled.positional:
        parameters = tuple(parameters[name] for name in compiled.positiontup)
    _print(connection.exec_driver_sql(sql, parameters))


def _print(found: Any) -> None:
    for row in found:
        print(f"      {row[-1]}")


def _of(address: str) -> bool:
    migrate(address)
    now = now_ms()
    engine = create_engine(address)
    start = time.perf_counter()
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -400000"):
                connection.exec_driver_sql(f"PRAGMA {pragma}")
        _fill(connection, now)
        connection.commit()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE" if engine.dialect.name == "sqlite" else "VACUUM ANALYZE"))
        print(f"\n{engine.dialect.name}: {ROWS:,} rows in {time.perf_counter() - start:.0f} s", flush=True)
        print(f"  {'ms':58} {'list':>7} {'p99':>7} {'summary':>9} {'p99':>7}")
        reached = trio.run(_measure, address, now)
        _plans(connection, now)
    engine.dispose()
    return reached


def main() -> int:
    """Return 0 when every goal is reached on every database."""
    reached = True
    if "sqlite" in DATABASES:
        with tempfile.TemporaryDirectory() as folder:
            reached = _of(f"sqlite:///{Path(folder) / 'bench.db'}")
    if "postgresql" in DATABASES:
        if reason := postgres.missing():
            print(reason)
            return 1
        with contextlib.ExitStack() as stack:
            reached = _of(stack.enter_context(postgres.server())()) and reached
    return 0 if reached else 1
