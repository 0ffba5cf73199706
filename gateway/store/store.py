"""One node's database: its tasks in a nursery of its own, and at the end all is written."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import structlog
import trio
from sqlalchemy import URL, Connection, delete, insert, text

from gateway.config.settings import ExecutionSettings, SettingsError, StoreSettings, hide_password
from gateway.store.approvals import Approvals
from gateway.store.database import Database
from gateway.store.engine import parse, path_of
from gateway.store.executions import Executions
from gateway.store.failures import is_unavailable, line_of
from gateway.store.ids import Ids, now_ms
from gateway.store.notifications import Notifications
from gateway.store.outbox import Outbox
from gateway.store.retention import Retention
from gateway.store.schema import EMPTY, is_outdated, newest_version, upgrade, version_of
from gateway.store.tables import leases
from gateway.store.writer import Job, Writer
from protocol.errors import ProtocolError

__all__ = ["Store"]

log = structlog.get_logger(__name__)

_PROBE: Final = 1.0
"""Seconds between two looks at a database that is not available, and at one that nobody uses."""


class Store:
    """Made by :meth:`open`. Its methods are for tasks of the Trio loop that opened it."""

    def __init__(
        self,
        url: URL,
        settings: StoreSettings,
        executions: ExecutionSettings,
        *,
        owner: str,
        clock: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._url = url
        self.owner = owner
        self._database = database = Database(url, settings)
        self._writer = writer = Writer(database, settings)
        self._verifying = trio.CapacityLimiter(1)
        ids, postgres = Ids(clock), database.postgresql
        self.outbox = Outbox(writer, settings, ids, clock, owner=owner, postgres=postgres)
        self.notifications = Notifications(database, writer, self.outbox, settings, ids, clock)
        self.approvals = Approvals(database, writer, self.outbox, settings, ids, clock)
        self.executions = Executions(
            database,
            writer,
            ids,
            clock,
            owner=owner,
            lease=settings.lease,
            updates_bytes=executions.updates_bytes,
        )
        self._retention = Retention(
            writer, settings, clock, owner=owner, postgres=postgres, also=[self.approvals.remove_old]
        )

    @staticmethod
    @asynccontextmanager
    async def open(
        address: str,
        settings: StoreSettings,
        executions: ExecutionSettings | None = None,
        *,
        owner: str | None = None,
        clock: Callable[[], int] = now_ms,
        retention: bool = True,
    ) -> AsyncIterator[Store]:
        """The database at ``address`` for the length of the block.

        ``owner`` names this node in leases (default: a fresh name; never one that a living node has);
        ``clock`` gives milliseconds since 1970; without ``retention`` :meth:`retain` is for the caller.
        SQLite gets the newest schema here, PostgreSQL must have it. An unreachable PostgreSQL is no error:
        operations are refused with DATABASE_UNAVAILABLE until it is there. At the end what waits is written,
        within ``store.timeout``. Raises ``SettingsError`` for an address or a schema that cannot be used.
        """
        url = parse(address)
        with tempfile.TemporaryDirectory() as folder:
            if url.database == ":memory:":
                url = url.set(database=f"{folder}/memory.db")  # else each connection has one of its own
            store = Store(
                url,
                settings,
                executions or ExecutionSettings(),
                owner=owner or secrets.token_hex(8),
                clock=clock,
            )
            try:
                await store._start()
                async with trio.open_nursery() as nursery:
                    writing = trio.CancelScope(shield=True)
                    nursery.start_soon(store._write_in, writing)
                    nursery.start_soon(store._watch)
                    if retention:
                        nursery.start_soon(store._sweep)
                    try:
                        yield store
                    finally:
                        await store._finish()
                        writing.cancel()
                        nursery.cancel_scope.cancel()
            finally:
                store._database.close()

    def ready(self) -> str | None:
        """None when the database can be used now, else the reason why not."""
        return self._database.failures.reason

    def measures(self) -> dict[str, tuple[str, float]]:
        """For the metrics: name → what it is, and its value now; a name in ``_total`` is a counter's."""
        writer = self._writer
        return {
            "store_pending": ("Writes that wait for their commit", writer.pending),
            "store_pending_bytes": ("Bytes of the writes that wait", writer.pending_bytes),
            "store_reading": ("Reads that run or wait for a connection", self._database.reading),
            "store_commits_total": ("Commits", writer.commits),
            "store_writes_total": ("Writes that were committed", writer.written),
            "store_failures_total": ("Commits and reads that failed", self._database.failures.count),
            "store_available": ("1 while the database can be used", float(self.ready() is None)),
        }

    async def retain(self) -> int | None:
        """Remove old and expired rows; None when another node is at it: ``Retention.retain``."""
        return await self._retention.retain()

    async def _start(self) -> None:
        path = path_of(self._url)
        if path is not None:
            await trio.to_thread.run_sync(partial(path.parent.mkdir, parents=True, exist_ok=True))
        with trio.move_on_after(2 * self._settings.timeout):
            await trio.to_thread.run_sync(self._verify, abandon_on_cancel=True)
            return
        self._database.failures.away("the database is too slow", "no answer at the start")

    def _verify(self) -> None:
        """In a thread: see that the schema can be used; raises ``SettingsError``."""
        problems: list[SettingsError] = []

        def look(connection: Connection) -> None:
            version = version_of(connection)
            if is_outdated(version) and not self._database.postgresql:
                before, version = upgrade(connection, newest_version())
                log.info("schema migrated", before=before, after=version)
            if is_outdated(version):
                found = "is empty" if version == EMPTY else f"has the schema {version}"
                problems.append(
                    SettingsError(
                        f"database {hide_password(str(self._url))} {found}, {newest_version()} is needed:"
                        " run 'gateway migrate'"
                    )
                )

        failed = self._database.transaction([look])
        if problems:
            raise problems[0]
        if failed is None:
            self._database.verified = True
            return
        error, _ = failed
        if not is_unavailable(error) or not self._database.postgresql:
            raise SettingsError(
                f"database {hide_password(str(self._url))} cannot be used: {line_of(error)}"
            ) from None
        self._database.failures.away("the database is unavailable", line_of(error))

    async def _watch(self) -> None:
        """Find out when the database goes, and when it is back."""
        database = self._database
        while True:
            await trio.sleep(_PROBE)
            try:
                if not database.verified:
                    await self._verify_again()
                    continue
                await database.read(lambda connection: connection.execute(text("SELECT 1")).all())
                if self.ready() is not None:  # it may only be full, or locked
                    await self._writer.write(self._touch, None)
            except ProtocolError:
                continue

    async def _verify_again(self) -> None:
        failures = self._database.failures
        try:
            with trio.move_on_after(2 * self._settings.timeout):
                await trio.to_thread.run_sync(self._verify, limiter=self._verifying, abandon_on_cancel=True)
                if self._database.verified:
                    failures.back()
        except SettingsError as error:
            failures.away("the database has another schema", str(error))

    def _touch(self, connection: Connection, jobs: Sequence[Job]) -> None:
        """A write that changes nothing that matters."""
        name = f"probe-{self.owner}"
        connection.execute(insert(leases).values(name=name, owner=self.owner, until_ms=0))
        connection.execute(delete(leases).where(leases.c.name == name))

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(self._settings.sweep)
            try:
                removed = await self.retain()
            except ProtocolError as error:
                log.warning("old rows were not removed", reason=error.message)
                continue
            if removed:
                log.info("old rows removed", rows=removed)

    async def _write_in(self, scope: trio.CancelScope) -> None:
        with scope:  # what is committed already shall be forgotten by the outbox when all else is cancelled
            await self._writer.run()

    async def _finish(self) -> None:
        with trio.CancelScope(shield=True), trio.move_on_after(self._settings.timeout):
            self._writer.stop()
            await self._writer.finished.wait()
