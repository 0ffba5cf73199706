"""Migrations: up and down with data in place, by several processes at once; older and newer schemas."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import trio
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, event, inspect

from gateway.config.settings import SettingsError
from gateway.store import EMPTY, migrate, newest_version, schema_version
from gateway.store.tables import metadata
from tests.store.support import create, opened, rows

ROOT = Path(__file__).parents[2]


async def test_up_and_down_with_data_in_place(address: str) -> None:
    async with opened(address) as store:
        ids = (await create(store, "alice", "bob", mid="m", data={"x": 1})).ids
        await store.notifications.read("acme", "alice", [ids["alice"]])
        before = await store.notifications.list("acme", "alice")
    newest = newest_version()
    for version in range(int(newest) - 1, 0, -1):
        assert migrate(address, f"{version:04}")[1] == schema_version(address) == f"{version:04}"
    assert migrate(address) == ("0001", newest)
    async with opened(address) as store:
        assert await store.notifications.list("acme", "alice") == before
        assert (await create(store, "alice", "bob", mid="m")).ids == ids


def test_down_to_nothing_and_up_again(address: str) -> None:
    newest = newest_version()
    assert migrate(address, EMPTY) == (newest, EMPTY)
    assert rows(address, "SELECT * FROM alembic_version") == []
    assert migrate(address) == (EMPTY, newest)
    assert migrate(address) == (newest, newest)


def test_the_migrations_make_the_tables_of_this_release(address: str) -> None:
    engine = create_engine(address)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        for table in metadata.tables.values():
            found = {index["name"]: index for index in inspect(connection).get_indexes(table.name)}
            assert set(found) == {index.name for index in table.indexes}
            for index in table.indexes:
                shown = found[str(index.name)]
                assert shown["column_names"] == [column.name for column in index.columns]
                dialect = engine.dialect.name
                wanted = index.dialect_options[dialect].get("where")
                where = shown.get("dialect_options", {}).get(f"{dialect}_where")
                assert bare(where) == bare(wanted)
    engine.dispose()


def bare(condition: object) -> str:
    """A condition without what PostgreSQL adds."""
    return "" if condition is None else re.sub(r"[()\s]", "", str(condition))


def test_several_processes_at_once(empty: str) -> None:
    command = [sys.executable, "-c", f"from gateway.store import migrate; print(migrate({empty!r}))"]
    started = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(4)]
    said = [process.communicate(timeout=60)[0].decode().strip() for process in started]
    newest = newest_version()
    assert sorted(said) == sorted([f"{(EMPTY, newest)}", *[f"{(newest, newest)}"] * 3])


def test_a_new_file_that_another_process_prepares_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite answers "locked" at once, without waiting for the other: a node must not fail to start."""
    from gateway.store import engine

    monkeypatch.setattr(engine, "_PAUSE", 0.0)
    locked = sqlite3.OperationalError("database is locked")
    locked.sqlite_errorcode = sqlite3.SQLITE_BUSY
    cursor = Mock()
    connection = Mock(execute=Mock(side_effect=[locked, locked, *[cursor] * 10]))
    engine._prepare_sqlite(connection, None)
    assert [call.args[0] for call in connection.execute.call_args_list[:3]] == [
        "PRAGMA journal_mode = WAL"
    ] * 3
    connection.execute = Mock(side_effect=locked)
    with pytest.raises(sqlite3.OperationalError):
        engine._prepare_sqlite(connection, None)


def test_a_failed_migration_leaves_nothing(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.store import schema

    upgraded = schema.command.upgrade

    def interrupted(*arguments: object) -> None:
        upgraded(*arguments)  # type: ignore[arg-type]
        raise RuntimeError("the power fails")

    monkeypatch.setattr(schema.command, "upgrade", interrupted)
    with pytest.raises(RuntimeError):
        migrate(empty)
    monkeypatch.undo()
    assert schema_version(empty) == EMPTY
    engine = create_engine(empty)
    assert inspect(engine).get_table_names() == []
    engine.dispose()
    migrate(empty)


_HARMLESS = ("SELECT", "PRAGMA", "BEGIN", "INSERT INTO alembic_version", "UPDATE alembic_version")


def test_migrations_only_add(empty: str) -> None:
    """What the release before does with its tables must still work: it goes on while nodes are replaced."""
    said: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_others: object) -> None:
        said.append(" ".join(statement.replace('"', "").split()))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        for version in range(1, int(newest_version()) + 1):
            said.clear()
            migrate(empty, f"{version:04}")
            own = {line.split()[2] for line in said if line.startswith("CREATE TABLE ")}
            broken = [line for line in said if not _only_adds(line, own)]
            assert broken == [], f"version {version:04}"
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def _only_adds(statement: str, own: set[str]) -> bool:
    """Whether whoever does not know of it is not touched; ``own`` are the tables of the same version."""
    if statement.startswith(("CREATE TABLE ", "CREATE INDEX ", *_HARMLESS)):
        return True
    if found := re.match(r"CREATE UNIQUE INDEX \S+ ON (\S+)", statement):
        return found[1] in own
    added = re.match(r"ALTER TABLE (\S+) ADD (COLUMN )?", statement)
    return bool(added) and ("NOT NULL" not in statement or "DEFAULT" in statement)


def test_what_does_not_only_add() -> None:
    for statement in (
        "DROP TABLE notifications",
        "ALTER TABLE notifications DROP COLUMN title",
        "ALTER TABLE notifications RENAME COLUMN title TO name",
        "ALTER TABLE notifications ADD COLUMN more TEXT NOT NULL",
        "CREATE UNIQUE INDEX one ON notifications (title)",
        "UPDATE notifications SET title = ''",
    ):
        assert not _only_adds(statement, {"other"}), statement


async def test_two_releases_on_one_schema(address: str) -> None:
    """A node goes on while the next release migrates, and another of its release begins behind that."""
    async with opened(address) as before:
        ids = [(await create(before, "alice")).ids["alice"]]
        for statement in (
            "ALTER TABLE notifications ADD COLUMN colour TEXT",
            "ALTER TABLE notifications ADD COLUMN weight INTEGER NOT NULL DEFAULT 1",
            "CREATE TABLE more (id BIGINT PRIMARY KEY, colour TEXT)",
            "UPDATE alembic_version SET version_num = '9999'",
        ):
            rows(address, statement)
        async with opened(address) as after:
            for store in (before, after, before):
                ids.append((await create(store, "alice")).ids["alice"])
                rows(address, "UPDATE notifications SET colour = 'red'")  # what the next release writes
            await before.notifications.read("acme", "alice", ids[:1])
            await after.notifications.read("acme", "alice", ids[1:2])
            for store in (before, after):
                page = await store.notifications.list("acme", "alice")
                assert [each.id for each in page.notifications] == ids[::-1]
                assert await store.notifications.unread_count("acme", "alice") == 2


async def test_an_empty_database(empty: str) -> None:
    if empty.startswith("sqlite"):
        async with opened(empty) as store:
            await create(store)
        assert schema_version(empty) == newest_version()
        return
    with pytest.raises(SettingsError, match=r"is empty, \d{4} is needed: run 'gateway migrate'"):
        async with opened(empty):
            raise AssertionError("opened")


async def test_a_newer_schema_is_used_and_never_taken_back(address: str) -> None:
    rows(address, "UPDATE alembic_version SET version_num = '9999'")
    async with opened(address) as store:
        await create(store)
    with pytest.raises(SettingsError, match="a newer release"):
        await trio.to_thread.run_sync(migrate, address, "0001")
    assert migrate(address) == ("9999", "9999")


def test_unknown_versions_are_refused(address: str) -> None:
    for version in ("9999", "1", "head", "-001", "x"):
        with pytest.raises(SettingsError, match="unknown"):
            migrate(address, version)


@pytest.mark.parametrize("wrong", ["mysql://h/d", "nonsense", "postgresql://h/d", "sqlite+aiosqlite:///x"])
def test_addresses_that_cannot_be_used(wrong: str) -> None:
    with pytest.raises(SettingsError, match="database"):
        migrate(wrong)


def test_no_secret_is_shown(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        migrate("postgresql+psycopg://me:hidden@127.0.0.1:9/d")
    assert "hidden" not in str(caught.value) and "127.0.0.1" in str(caught.value)


async def test_in_memory_each_store_has_its_own() -> None:
    async with opened("sqlite:///:memory:") as a, opened("sqlite:///:memory:") as b:
        await create(a)
        assert await a.notifications.unread_count("acme", "alice") == 1
        assert await b.notifications.unread_count("acme", "alice") == 0
