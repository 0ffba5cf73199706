"""The database is locked, full, away, silent, restarted; callers are cancelled; too much waits."""

from __future__ import annotations

import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import structlog
import trio

from gateway.config.settings import SettingsError
from gateway.store import Store, migrate
from protocol.errors import ErrorCode, ProtocolError
from tests.postgres import Postgres
from tests.store.support import create, opened, refused, rows
from tests.support import until


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process's transaction, that writes and does not end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def outcome(store: Store, found: list[object], **fields: object) -> None:
    try:
        found.append(await create(store, **fields))
    except ProtocolError as error:
        found.append(error.code)


async def test_sqlite_locked_by_another(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    # SQLite waits for three quarters of it: on a busy machine the last one must suffice for the rest.
    async with opened(f"sqlite:///{path}", timeout=2) as store:
        await create(store, title="before")
        with locked(path):
            error = await refused(ErrorCode.DATABASE_UNAVAILABLE, create(store))
            assert "locked" in error.message and str(path) not in error.message
            assert store.ready() == error.message
            # Readers see what was there.
            assert [n.title for n in (await store.notifications.list("acme", "alice")).notifications] == [
                "before"
            ]
        await until(lambda: store.ready() is None, "the lock's end is noticed")
        await create(store)
        assert await store.notifications.unread_count("acme", "alice") == 2


async def test_sqlite_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"sqlite:///{tmp_path / 'store.db'}"
    migrate(address)
    connect = sqlite3.dbapi2.connect

    def small(*arguments: object, **named: object) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **named)  # type: ignore[call-overload]
        connection.execute("PRAGMA max_page_count = 60").close()
        return connection

    monkeypatch.setattr("sqlite3.dbapi2.connect", small)
    async with opened(address) as store:
        stored = 0
        with pytest.raises(ProtocolError) as caught:
            while True:
                await create(store, message="x" * 4000)
                stored += 1
        assert caught.value.code == ErrorCode.DATABASE_UNAVAILABLE
        assert "full" in caught.value.message and caught.value.retry_after
        assert stored == await store.notifications.unread_count("acme", "alice") > 3
    assert rows(address, "SELECT count(*) FROM notifications") == [(stored,)]


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"something else" * 100)
    with pytest.raises(SettingsError, match="not a database"):
        async with opened(f"sqlite:///{path}"):
            raise AssertionError("opened")


async def test_postgresql_killed_and_started_again(own_postgres: Postgres) -> None:
    address = own_postgres.migrated()
    async with opened(address) as store:
        kept = await create(store)
        await trio.to_thread.run_sync(own_postgres.kill)
        await refused(ErrorCode.DATABASE_UNAVAILABLE, create(store))
        await refused(ErrorCode.DATABASE_UNAVAILABLE, store.notifications.list("acme", "alice"))
        assert store.ready() == "the database is unavailable"
        assert store.measures()["store_available"][1] == 0
        await trio.to_thread.run_sync(own_postgres.start)
        await until(lambda: store.ready() is None, "the server's return is noticed")
        page = await store.notifications.list("acme", "alice")
        assert [each.id for each in page.notifications] == list(kept.ids.values())
        await create(store)


async def test_postgresql_restarted_while_many_write(own_postgres: Postgres) -> None:
    address = own_postgres.migrated()
    acknowledged: set[str] = set()
    refusals: list[int] = []
    stop = False

    async def produce(store: Store, number: int) -> None:
        count = 0
        while not stop:
            mid = f"{number}-{count}"
            try:
                await create(store, mid=mid)
                acknowledged.add(mid)
                count += 1
            except ProtocolError as error:
                refusals.append(error.code)
                await trio.sleep(0.05)

    async with opened(address) as store, trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(produce, store, number)
        for _ in range(2):
            seen = len(acknowledged)
            await until(lambda seen=seen: len(acknowledged) > seen + 200, "writes")
            await trio.to_thread.run_sync(own_postgres.kill)
            await trio.to_thread.run_sync(own_postgres.start)
        seen = len(acknowledged)
        await until(lambda: len(acknowledged) > seen + 200, "writes")
        stop = True
    assert set(refusals) <= {ErrorCode.DATABASE_UNAVAILABLE, ErrorCode.TIMEOUT} and refusals
    stored = [mid for (mid,) in rows(address, "SELECT mid FROM notifications")]
    assert acknowledged <= set(stored) and len(stored) == len(set(stored))


async def test_postgresql_silent(own_postgres: Postgres) -> None:
    address = own_postgres.migrated()
    async with opened(address, timeout=1, pool=1) as store:
        await create(store)
        await store.notifications.unread_count("acme", "alice")
        own_postgres.signal(signal.SIGSTOP)
        try:
            codes: list[object] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(outcome, store, codes)
                await until(lambda: store.measures()["store_pending"][1] == 1, "the first write")
                await trio.testing.wait_all_tasks_blocked(0.05)
                nursery.start_soon(outcome, store, codes)
                await refused(ErrorCode.DATABASE_UNAVAILABLE, store.notifications.list("acme", "alice"))
            # The first was on its way, and nobody knows; the second was still here.
            assert sorted(map(int, codes)) == [ErrorCode.TIMEOUT, ErrorCode.DATABASE_UNAVAILABLE]  # type: ignore[call-overload]
        finally:
            own_postgres.signal(signal.SIGCONT)
        await until(lambda: store.measures()["store_pending"][1] == 0, "the end of the first write")
        await create(store)


async def test_postgresql_away_at_the_start(own_postgres: Postgres) -> None:
    address = own_postgres.migrated()
    await trio.to_thread.run_sync(own_postgres.kill)
    try:
        async with opened(address) as store:
            assert store.ready() is not None
            await refused(ErrorCode.DATABASE_UNAVAILABLE, create(store))
            await refused(ErrorCode.DATABASE_UNAVAILABLE, store.outbox.claim())
            await refused(ErrorCode.DATABASE_UNAVAILABLE, store.notifications.list("acme", "alice"))
            await trio.to_thread.run_sync(own_postgres.start)
            await until(lambda: store.ready() is None, "the server is noticed")
            await create(store)
    finally:
        await trio.to_thread.run_sync(own_postgres.start)


async def hold(store: Store, release: threading.Event) -> None:
    """Keep the writer's thread busy."""
    await store._writer.write(lambda connection, jobs: release.wait(30) and None, None)


async def test_too_many_writes_are_refused(address: str) -> None:
    async with opened(address, pending=10, pending_bytes=10_000) as store:
        release = threading.Event()
        codes: list[object] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, store, release)
            await trio.testing.wait_all_tasks_blocked(0.01)
            for _ in range(9):
                nursery.start_soon(outcome, store, codes)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await refused(ErrorCode.OVERLOADED, create(store))
            release.set()
        assert len(codes) == 9 and not any(isinstance(code, int) for code in codes)


async def test_too_many_bytes_are_refused(address: str) -> None:
    async with opened(address, pending_bytes=10_000) as store:
        release = threading.Event()
        codes: list[object] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, store, release)
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.start_soon(lambda: outcome(store, codes, message="x" * 6000))
            await trio.testing.wait_all_tasks_blocked(0.01)
            await refused(ErrorCode.OVERLOADED, create(store, message="x" * 6000))
            await refused(ErrorCode.TOO_LARGE, create(store, message="x" * 10_000))
            await refused(ErrorCode.TOO_LARGE, create(store, *(f"u{n}" for n in range(100))))
            release.set()
        await create(store, message="x" * 6000)
        assert store.measures()["store_pending_bytes"][1] == 0


async def test_too_many_reads_are_refused(address: str) -> None:
    async with opened(address, pool=1, pending_reads=2) as store:
        release = threading.Event()
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(store._database.read, lambda _: release.wait(30))
            await trio.testing.wait_all_tasks_blocked(0.01)
            await refused(ErrorCode.OVERLOADED, store.notifications.list("acme", "alice"))
            release.set()
        await store.notifications.list("acme", "alice")


async def test_a_cancelled_write_that_waits_is_taken_back(address: str) -> None:
    async with opened(address) as store:
        release = threading.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, store, release)
            await trio.testing.wait_all_tasks_blocked(0.01)
            with trio.move_on_after(0.01) as scope:
                await create(store, title="cancelled")
            assert scope.cancelled_caught
            assert store.measures()["store_pending"][1] == 1
            release.set()
        await create(store, title="after")
        page = await store.notifications.list("acme", "alice")
        assert [each.title for each in page.notifications] == ["after"]


async def test_a_cancelled_write_that_has_begun_is_stored_and_delivered_later(address: str) -> None:
    async with opened(address, lease=0.5) as store:
        release = threading.Event()
        work = store.notifications._insert

        def slow(connection: object, jobs: object) -> None:
            work(connection, jobs)  # type: ignore[arg-type]
            release.wait(30)

        store.notifications._insert = slow  # type: ignore[assignment, method-assign]
        with trio.move_on_after(0.2) as scope:
            await create(store, title="cancelled")
        assert scope.cancelled_caught
        release.set()
        found: list[str] = []
        with trio.fail_after(60):
            while not found:
                found = [entry.data["title"] for entry in await store.outbox.claim()]
        assert found == ["cancelled"]


async def test_one_bad_statement_fails_alone(address: str) -> None:
    def bad(connection: object, jobs: object) -> None:
        raise ValueError("a fault of ours")

    async with opened(address) as store:
        release = threading.Event()
        codes: list[object] = []

        async def faulty() -> None:
            await refused(ErrorCode.INTERNAL, store._writer.write(bad, None))

        with structlog.testing.capture_logs() as logs:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hold, store, release)
                await trio.testing.wait_all_tasks_blocked(0.01)
                for _ in range(5):
                    nursery.start_soon(outcome, store, codes)
                nursery.start_soon(faulty)
                await trio.testing.wait_all_tasks_blocked(0.01)
                release.set()
        assert [log["reason"] for log in logs] == ["a fault of ours"]
        assert not any(isinstance(code, int) for code in codes)
        assert await store.notifications.unread_count("acme", "alice") == 5


async def test_two_processes_that_make_the_same_id(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(address) as store:
        taken = (await create(store)).ids["alice"]
        ids = iter([taken, taken + 1, taken + 2])
        monkeypatch.setattr(store.notifications._ids, "next", lambda: next(ids))
        created = await create(store, title="second")
        assert created.ids["alice"] == taken + 1
        assert await store.notifications.unread_count("acme", "alice") == 2


async def test_what_waits_at_the_end_is_written(address: str) -> None:
    found: list[object] = []
    async with trio.open_nursery() as nursery:
        async with opened(address) as store:
            for _ in range(5):
                nursery.start_soon(outcome, store, found)
            await until(lambda: store.measures()["store_pending"][1] or found, "writes")
    assert len(found) == 5 and not any(isinstance(code, int) for code in found)
    assert rows(address, "SELECT count(*) FROM notifications") == [(5,)]


async def test_the_loop_turns_while_the_database_stands_still(address: str) -> None:
    async with opened(address) as store:
        release = threading.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, store, release)
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.start_soon(create, store)
            for _ in range(1000):
                await trio.lowlevel.checkpoint()
            release.set()
