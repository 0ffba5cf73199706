"""Lists and summaries of many executions, on both databases, with the plans of the statements.

``python -m bench executions``; ``BENCH_ROWS=100000`` is a shorter run than the million of the default, and
``BENCH_DATABASES=sqlite`` leaves PostgreSQL out. Rows are spread over 60 days, 50 agents, 10 teams and 20
methods; the figures are what ``gateway.store`` takes, threads included.
"""

from __future__ import annotations

import contextlib
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
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Connection

from bench import postgres
from gateway.config.settings import StoreSettings
from gateway.store import Store, migrate
from gateway.store.executions import Execution, Filters
from gateway.store.executions.days import DAY_MS, bucket_of, count_ended
from gateway.store.executions.queries import page, page_parameters, summary, summary_parameters
from gateway.store.executions.tables import executions
from gateway.store.ids import first_of, now_ms
from gateway.store.rows import insert_new

ROWS = int(os.environ.get("BENCH_ROWS", "1000000"))
DATABASES = os.environ.get("BENCH_DATABASES", "sqlite,postgresql").split(",")
DAYS = 60
ASKED = 200
"""Times that each question is asked."""
BATCH = 5000
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


def _rows(now: int) -> Iterator[Execution]:
    dice = random.Random(1)
    start = (now // DAY_MS - DAYS + 1) * DAY_MS
    for index in range(ROWS):
        created = start + (now - start) * index // ROWS
        status = dice.choices(["completed", "failed", "cancelled"], [90, 8, 2])[0]
        if index >= ROWS - ROWS // 1000:
            status = "running"
        duration = None if status == "running" else int(math.exp(dice.gauss(8, 1.5)))
        yield Execution(
            number=first_of(created) + index % 1000, org="acme", id=f"e{index}",
            agent=f"agent-{dice.randrange(50)}", team=f"team-{dice.randrange(10)}",
            method=f"method-{dice.randrange(20)}", status=status, version=3, created_ms=created,
            started_ms=created, updated_ms=created, heartbeat_ms=created, duration_ms=duration,
            finished_ms=None if duration is None else created + duration, bucket=bucket_of(duration),
            step="writing the report", tools='["search","browser"]', input='{"topic":"' + "x" * 80 + '"}',
        )  # fmt: skip


def _fill(connection: Connection, now: int) -> None:
    from msgspec.structs import asdict

    batch: list[Execution] = []
    for row in _rows(now):
        batch.append(row)
        if len(batch) == BATCH:
            _write(connection, batch, asdict)
            batch = []
    if batch:
        _write(connection, batch, asdict)


def _write(connection: Connection, batch: list[Execution], asdict: Callable[[Any], dict[str, Any]]) -> None:
    insert_new(connection, executions, [asdict(each) for each in batch], ())
    count_ended(connection, (each for each in batch if each.status != "running"))


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
            print(f"  {names:58} {p50:7.1f} {p99:7.1f} {s50:9.1f} {s99:7.1f}")
            reached = reached and p99 < LIST_MS and s99 < SUMMARY_MS
        part = Filters(first=first + DAY_MS // 2, until=until)
        s50, s99 = await _figures(partial(store.executions.summary, "acme", part))
        print(f"  {'everything, from the middle of a day':58} {'':7} {'':7} {s50:9.1f} {s99:7.1f}")
    return reached and s99 < SUMMARY_MS


def _plans(connection: Connection, now: int) -> None:
    explain = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
    first = (now // DAY_MS - 29) * DAY_MS
    chosen: list[dict[str, Any]] = [
        {},
        {"agent": "agent-7", "status": "failed"},
        {"team": "team-3"},
        {"status": "failed"},
    ]
    for given in chosen:
        statement = page(Filters(**given)).compile(dialect=connection.dialect, compile_kwargs={})
        asked = page_parameters("acme", Filters(**given), None, 51)
        print(f"  list {given}:")
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
    with engine.begin() as connection:
        _fill(connection, now)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE" if engine.dialect.name == "sqlite" else "VACUUM ANALYZE"))
        print(f"\n{engine.dialect.name}: {ROWS:,} rows in {time.perf_counter() - start:.0f} s")
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
