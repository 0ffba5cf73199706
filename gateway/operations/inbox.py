"""The store of notifications while a node runs, and what it tells users that something has changed.

What is committed is delivered by this node at once. What a node left (it died, the broker was away) is
claimed from the outbox when its lease is over, by whichever node asks first. So an event comes at least once,
always under the same ``mid``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

import structlog
import trio

from gateway.operations.events import Events
from gateway.operations.rules import service
from protocol.errors import ErrorCode, ProtocolError

if TYPE_CHECKING:
    from gateway.config.settings import ExecutionSettings, StoreSettings
    from gateway.store import Entry, Store

__all__ = ["OFF", "Inbox"]

log = structlog.get_logger(__name__)

OFF: Final = "none"
"""The setting ``database`` of a gateway without notifications."""
_LANES: Final = 4
"""Deliveries on their way; those to one user stay in order."""
_TOGETHER: Final = 256
"""Entries in one delivery: what comes of one command goes to the broker with a few calls."""
_WAITING: Final = 4000
"""Entries that wait for their delivery. What is more is left to the lease; operations bound one's size."""
_CLAIM: Final = 200
_EVERY: Final = 2.0
"""Seconds between two looks for what others left."""


class Inbox:
    """The store of one node, or none when the setting ``database`` is ``none``."""

    def __init__(
        self,
        address: str,
        settings: StoreSettings,
        executions: ExecutionSettings,
        events: Events,
        beside: Sequence[Callable[[Store], Awaitable[None]]] = (),
    ) -> None:
        """``beside`` are run with the open store, until it is closed."""
        self.enabled = address != OFF
        self.strict = settings.strict
        self._address = address
        self._settings = settings
        self._executions = executions
        self._beside = beside
        self._events = events
        self._store: Store | None = None
        self._lanes = [trio.open_memory_channel[tuple[float, "Entry"]](math.inf) for _ in range(_LANES)]
        self._waiting = 0
        self._delivered = 0
        self._left = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the store open and deliver until cancelled; ``started`` is called when it has been looked at.

        Raises ``SettingsError`` for a database or a schema that cannot be used. One that cannot be reached is
        no error: see :meth:`ready`.
        """
        if not self.enabled:
            task_status.started()
            return
        from gateway.store import Store  # the database's packages take a while to import

        async with (
            Store.open(self._address, self._settings, self._executions) as store,
            trio.open_nursery() as nursery,
        ):
            self._store = store
            try:
                for _, lane in self._lanes:
                    nursery.start_soon(self._deliver_from, lane, store)
                for work in self._beside:
                    nursery.start_soon(work, store)
                task_status.started()
                await self._look_for_left(store)
            finally:
                self._store = None

    @property
    def store(self) -> Store:
        """The open store; raises NOT_FOUND when there is none, and DATABASE_UNAVAILABLE when not now."""
        if self._store is None:
            if not self.enabled:
                raise ProtocolError(ErrorCode.NOT_FOUND, "not available: the setting database is none")
            raise ProtocolError(
                ErrorCode.DATABASE_UNAVAILABLE,
                "the database is not open",
                retry_after=self._settings.retry_after,
            )
        return self._store

    def ready(self) -> str | None:
        """None when there is no database or it can be used now, else the reason why not."""
        if not self.enabled:
            return None
        return "the database is not open" if self._store is None else self._store.ready()

    def measures(self) -> dict[str, tuple[str, float]]:
        """For the metrics: name → what it is, and its value now; a name in ``_total`` is a counter's."""
        if self._store is None:
            return {}
        return {
            **self._store.measures(),
            "inbox_waiting": ("Committed changes that wait for their delivery", self._waiting),
            "inbox_delivered_total": ("Committed changes delivered by this node", self._delivered),
            "inbox_left_total": ("Committed changes left to a later delivery", self._left),
        }

    def deliver(self, entries: Iterable[Entry]) -> None:
        """Have the users told, on all nodes, without waiting for it."""
        until = trio.current_time() + self._settings.lease
        for entry in entries:
            if self._waiting >= _WAITING:
                self._left += 1
                continue
            self._waiting += 1
            lane, _ = self._lanes[hash((entry.org, entry.user, entry.room)) % _LANES]
            lane.send_nowait((until, entry))

    async def _deliver_from(self, lane: trio.MemoryReceiveChannel[tuple[float, Entry]], store: Store) -> None:
        async for first in lane:
            waiting = [first]
            with contextlib.suppress(trio.WouldBlock):
                while len(waiting) < _TOGETHER:
                    waiting.append(lane.receive_nowait())
            try:
                now = trio.current_time()
                entries = [entry for until, entry in waiting if now < until]
                done = await self._deliver(entries)
                self._delivered += len(done)
                self._left += len(waiting) - len(done)
                if done:
                    store.outbox.done(done)
            finally:
                self._waiting -= len(waiting)

    async def _deliver(self, entries: list[Entry]) -> list[int]:
        """Those of which nothing is left to do; the others must be tried again after the lease."""
        errors: dict[int, ProtocolError | None] = {}
        to_users = []
        for entry in entries:
            if entry.room is None:
                to_users.append(entry)
            else:
                errors[entry.id] = await self._publish(entry, entry.room)
        told = await self._events.tell(
            [(entry.org, entry.user, entry.event, entry.data, entry.mid) for entry in to_users]
        )
        errors |= {entry.id: error for entry, error in zip(to_users, told, strict=True)}
        done = []
        for entry in entries:
            error = errors[entry.id]
            if error is not None and 300 <= error.code < 400:
                continue
            if error is not None:
                # To try again would never help. What has changed is in the lists.
                log.error("a change cannot be delivered", mid=entry.mid, reason=error.message)
            done.append(entry.id)
        return done

    async def _publish(self, entry: Entry, room: str) -> ProtocolError | None:
        try:
            await self._events.publish(service(entry.org), room, entry.event, entry.data, mid=entry.mid)
        except ProtocolError as error:
            return error
        return None

    async def _look_for_left(self, store: Store) -> None:
        every = min(_EVERY, self._settings.lease / 2)
        while True:
            try:
                while self._waiting + _CLAIM <= _WAITING:
                    entries = await store.outbox.claim(_CLAIM)
                    self.deliver(entries)
                    if len(entries) < _CLAIM:
                        break
            except ProtocolError:
                pass  # the store has logged why, and the next look is soon
            await trio.sleep(every)
