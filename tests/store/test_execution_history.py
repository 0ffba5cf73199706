"""Lists and summaries of executions, held against the same figures worked out row by row."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import trio
from sqlalchemy import create_engine, text

from gateway.store import Store, migrate
from gateway.store.executions import Change, Filters
from gateway.store.executions.days import DAY_MS, Count, bucket_of, percentile
from gateway.store.executions.queries import newest, page, page_parameters
from protocol.errors import ErrorCode
from tests.postgres import Postgres
from tests.store.support import Clock, opened, refused, rows

TODAY = 1_760_000_000_000 // DAY_MS
SOME = [
    {},
    {"agent": "a1"},
    {"team": "t0"},
    {"method": "m1"},
    {"status": "failed"},
    {"status": "running"},
    {"agent": "a0", "status": "completed"},
    {"team": "t1", "method": "m0"},
    {"agent": "a2", "team": "t1", "method": "m1", "status": "completed"},
    {"agent": "nobody"},
]


async def finish(store: Store, id: str, status: str, **said: Any) -> None:
    await store.executions.change("acme", id, Change(status=status, **said))


async def lived(store: Store, time: Clock, number: int) -> list[dict[str, Any]]:
    """Executions over six days, as they ended up."""
    dice = random.Random(7)
    for each, moment in enumerate(sorted(dice.randrange(6 * DAY_MS) for _ in range(number))):
        time.now = (TODAY - 5) * DAY_MS + moment
        created = await store.executions.create(
            "acme",
            id=f"e{each}",
            agent=f"a{dice.randrange(3)}",
            team=dice.choice(["t0", "t1", None]),
            method=dice.choice(["m0", "m1", None]),
            status=dice.choice(["queued", "running"]),
        )
        if created["status"] == "queued":
            if dice.random() < 0.3:
                continue
            await finish(store, f"e{each}", "running")
        time.advance(math.exp(dice.uniform(-5, 9)))
        if dice.random() < 0.9:
            await finish(store, f"e{each}", dice.choice(["completed", "completed", "failed", "cancelled"]))
    await store.executions.create("other", agent="a0", status="running")
    time.now = (TODAY + 1) * DAY_MS - 1
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = await store.executions.list("acme", Filters(), limit=200, cursor=cursor)
        found += page.executions
        if (cursor := page.next) is None:
            return found


def chosen(found: list[dict[str, Any]], filters: dict[str, Any], first: int, until: int) -> Any:
    return [
        row
        for row in found
        if first <= row["created_at"] < until
        and all(row.get(name) == value for name, value in filters.items())
    ]


async def test_lists_and_summaries_are_those_of_the_rows(address: str, time: Clock) -> None:
    async with opened(address, time) as store:
        found = await lived(store, time, 100)
        assert [row["created_at"] for row in found] == sorted(
            (row["created_at"] for row in found), reverse=True
        )
        assert len({row["id"] for row in found}) == 100
        start, end = (TODAY - 5) * DAY_MS, (TODAY + 1) * DAY_MS
        spans = [
            (start, end),
            (start + DAY_MS, end - DAY_MS),
            (start + DAY_MS // 3, end - DAY_MS // 5),  # parts of days at both ends
            (start + DAY_MS // 4, start + DAY_MS // 2),  # a part of one day
            (start - 10 * DAY_MS, start + 5),
            (start + 7, end + 3 * DAY_MS + 7),
        ]
        for first, until in spans:
            for filters in SOME:
                wanted = Filters(first=first, until=until, **filters)
                expected = chosen(found, filters, first, until)
                listed: list[dict[str, Any]] = []
                cursor = None
                while True:
                    page = await store.executions.list("acme", wanted, limit=30, cursor=cursor)
                    listed += page.executions
                    if (cursor := page.next) is None:
                        break
                assert listed == expected, (filters, first, until)
                same(await store.executions.summary("acme", wanted), expected, first, until)


def same(summary: Any, expected: list[dict[str, Any]], first: int, until: int) -> None:
    assert summary.total == len(expected)
    for status, number in summary.by_status.items():
        assert number == sum(row["status"] == status for row in expected), status
    days = [day for day, *_ in summary.days]
    assert days == list(range(first // DAY_MS, (until - 1) // DAY_MS + 1))
    for day, total, completed, failed in summary.days:
        of_day = [row["status"] for row in expected if row["created_at"] // DAY_MS == day]
        assert (total, completed, failed) == (
            len(of_day),
            of_day.count("completed"),
            of_day.count("failed"),
        )
    durations = sorted(row["duration"] * 1000 for row in expected if "duration" in row)
    if not durations:
        assert (summary.average, summary.p50, summary.p95) == (None, None, None)
        return
    assert summary.average == pytest.approx(sum(durations) / len(durations))
    for part, shown in ((0.5, summary.p50), (0.95, summary.p95)):
        exact = durations[math.ceil(part * len(durations)) - 1]
        assert exact / 1.21 <= max(1, shown) <= max(1, exact) * 1.21, part


def test_percentiles_of_few_are_exact() -> None:
    assert percentile([], 0.5) is None
    assert percentile([Count(1, 147, 147)], 0.95) == 147
    assert percentile([Count(2, 100, 110), Count(1, 500, 500)], 0.5) == 110
    assert percentile([Count(3, 100, 110)], 0.5) == 105
    assert [bucket_of(ms) for ms in (None, 0, 1, 2, 1000)] == [-1, 0, 0, 3, 37]


def test_postgresql_never_scans_the_primary_key_for_an_organisation(postgres: Postgres) -> None:
    """As it would: there are rows of others that are newer, which it would all read."""
    address = postgres.fresh()
    migrate(address)
    engine = create_engine(address)
    with engine.begin() as connection:
        names = "number, org, id, agent, status, version, created_ms, updated_ms, heartbeat_ms, bucket"
        connection.execute(
            text(
                f"INSERT INTO executions ({names}, updates_total, updates_cut) SELECT i,"
                " CASE WHEN i < 1900 THEN 'acme' ELSE 'b' END, i, 'a', 'running', 1, 0, 0, 0, 0, 0, 0"
                " FROM generate_series(1, 2000) AS s(i)"
            )
        )
        connection.execute(text("ANALYZE executions"))
        asked = page_parameters("acme", Filters(), None, 51)
        for statement in (page(Filters(), postgres=True), newest(postgres=True)):
            compiled = statement.compile(dialect=engine.dialect)
            plan = connection.exec_driver_sql(f"EXPLAIN {compiled}", compiled.construct_params(asked))
            assert "using executions_time" in str(plan.all())
    engine.dispose()


async def test_cursors_are_of_one_list(address: str, time: Clock) -> None:
    async with opened(address, time) as store:
        for _ in range(3):
            await store.executions.create("acme", agent="a0")
        page = await store.executions.list("acme", Filters(agent="a0"), limit=2, cursor=None)
        assert page.next is not None
        for org, filters in (("acme", Filters()), ("other", Filters(agent="a0"))):
            await refused(ErrorCode.BAD_FIELD, store.executions.list(org, filters, limit=2, cursor=page.next))


async def test_what_is_old_is_removed_with_its_counts(address: str, time: Clock) -> None:
    async with opened(address, time) as store:
        for id in ("old", "new"):
            await store.executions.create("acme", id=id, agent="a0", status="running")
            await finish(store, id, "completed")
            time.advance(30 * 86400)
        time.advance(-30 * 86400)
        assert await store.executions.upkeep.remove(30) == 0
        assert await store.executions.upkeep.remove(29) > 0
        assert await store.executions.get("acme", "old") is None
        assert await store.executions.get("acme", "new") is not None
        wanted = Filters(first=time.now - 100 * DAY_MS, until=time.now + DAY_MS)
        assert (await store.executions.summary("acme", wanted)).total == 1
    assert len(rows(address, "SELECT * FROM execution_updates")) == 2
    assert len(rows(address, "SELECT DISTINCT day FROM execution_days")) == 1


async def test_the_timeline_keeps_the_latest(address: str, time: Clock) -> None:
    async with opened(address, time) as store:
        await store.executions.create("acme", id="e", agent="a0", status="running")
        most = 64 * 1024
        for start in range(1, 400, 57):
            async with trio.open_nursery() as nursery:
                for number in range(start, start + 57):
                    change = Change(step=f"{number:0500}")
                    nursery.start_soon(store.executions.change, "acme", "e", change)
        row = await store.executions.get("acme", "e")
        assert row is not None and row["version"] == 400
        versions = [update["version"] for update in row["updates"]]
        assert versions == list(range(versions[0], 401)) and versions[0] > 1
        kept = rows(address, "SELECT sum(length(body)) FROM execution_updates")[0][0]
        assert most // 2 < kept <= most
