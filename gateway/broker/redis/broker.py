"""The broker of many nodes: what joins the parts that the package describes."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from typing import Final

import trio

from gateway.broker.base import Done, Event, HistoryPage, Since
from gateway.broker.bounds import HistoryBounds
from gateway.broker.redis.channel import Hooks
from gateway.broker.redis.client import Client
from gateway.broker.redis.feed import Feed
from gateway.broker.redis.history import read_history
from gateway.broker.redis.packets import Keys
from gateway.broker.redis.servers import Servers, Shard
from gateway.broker.redis.turns import Inbox, Wake
from gateway.broker.redis.writer import Writer
from gateway.config.redis_address import parse_address
from gateway.config.settings import HistorySettings, RedisSettings
from protocol.errors import ProtocolError

__all__ = ["RedisBroker"]

_PAUSE: Final = 0.2
"""Seconds until what could not be remembered is tried again."""
_NOTES: Final = 10_000
_NOTES_BYTES: Final = 16 * 2**20
_NOTES_AT_ONCE: Final = 64
_FAREWELL: Final = 2.0
"""Seconds that a shutdown waits for what is still to be written."""


class RedisBroker(Hooks):
    """A :class:`~gateway.broker.base.Broker`; ``run`` it, or nothing happens."""

    def __init__(self, address: str, settings: RedisSettings, history: HistorySettings) -> None:
        """Raises ``SettingsError`` for an address that is none. Connects in ``run``, not before."""
        super().__init__()
        self._settings = settings
        self._bounds = HistoryBounds(history)
        self._servers = Servers(
            parse_address(address),
            settings,
            use_commands=self._use_commands,
            use_feed=self._use_feed,
            changed=self._changed,
        )
        self._inbox = Inbox(settings.inbox_bytes, lambda: self.settled())
        self._feed = Feed(self._servers, settings, self._inbox, self)
        self.client = Client(self._servers, settings, self._feed)
        """For the other parts of the gateway."""
        self._writer = Writer(self._servers, settings, self._bounds, lambda: self.settled())
        self._notes: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._notes_bytes = 0
        self._noted = Wake()

    async def run(self) -> None:
        """Work until cancelled; then write what is still pending, for at most two seconds."""
        # What was submitted goes out although we are cancelled, so the way to Redis must stay open for that.
        way_out = trio.CancelScope(shield=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stay_connected, way_out)
            try:
                async with trio.open_nursery() as readers:
                    readers.start_soon(self._inbox.run)
                    readers.start_soon(self._feed.run)
            finally:
                with trio.move_on_after(_FAREWELL, shield=True):
                    if self.ready() is None:
                        await self._writer.flushed()
                        await self._notes_written()
                way_out.cancel()

    async def _stay_connected(self, scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._servers.run)
                nursery.start_soon(self._writer.run)
                nursery.start_soon(self._write_notes)

    async def _use_commands(self, shard: Shard) -> None:
        self._writer.retry()

    async def _use_feed(self, shard: Shard) -> None:
        await self._feed.use(shard)

    def _changed(self) -> None:
        self._feed.changed()
        self._writer.retry()

    def ready(self) -> str | None:
        """See :class:`~gateway.broker.base.Broker`."""
        return self._servers.silent(0)

    def measures(self) -> dict[str, tuple[str, float]]:
        """See :class:`~gateway.broker.base.Broker`."""
        return {
            "broker_up": ("Whether the broker can be reached", float(self.ready() is None)),
            "broker_pending": ("Publishes that wait for their place", len(self._writer)),
            "broker_channels": ("Channels that this node follows", len(self._feed)),
            "broker_inbox_bytes": (
                "Bytes that came and are not delivered",
                self._inbox.bytes,
            ),
            **self._servers.counts.measures(),
        }

    # --- channels -------------------------------------------------------------------------------

    def submit(self, event: Event, done: Done) -> None:
        """See :class:`~gateway.broker.base.Broker`."""
        self._writer.submit(event, done)

    async def subscribe(self, channel: str) -> None:
        """See :class:`~gateway.broker.base.Broker`. Raises BROKER_UNAVAILABLE."""
        followed = self._feed.follow(channel)
        deadline = trio.current_time() + self._settings.timeout
        while not followed.live.is_set():
            with trio.move_on_after(self._settings.patience / 4):
                await followed.live.wait()
            reason = self._servers.silent(self._settings.patience)
            if reason is None and trio.current_time() > deadline:
                reason = "it does not confirm a subscription"
            if reason is not None and not followed.live.is_set():
                raise self.client.unavailable(reason)

    def unsubscribe(self, channel: str) -> None:
        """See :class:`~gateway.broker.base.Broker`."""
        self._feed.unfollow(channel)

    async def history(self, channel: str, *, since: Since | None, limit: int) -> HistoryPage:
        """See :class:`~gateway.broker.base.Broker`. Raises BROKER_UNAVAILABLE."""
        keys = Keys.of(self._settings.prefix, channel)
        return await self.client.ask(
            keys.stream,
            lambda shard: read_history(
                shard, self._settings, self._bounds.of(channel), channel, keys, since=since, limit=limit
            ),
        )

    # --- notes ----------------------------------------------------------------------------------

    def remember(self, key: str, value: bytes, ttl: float) -> None:
        """See :class:`~gateway.broker.base.Broker`."""
        self._forget(key)
        self._notes[key] = (value, time.time() + ttl)
        self._notes_bytes += len(value)
        while len(self._notes) > _NOTES or self._notes_bytes > _NOTES_BYTES:
            self._forget(next(iter(self._notes)))
        self._noted.set()

    def _forget(self, key: str) -> None:
        self._notes_bytes -= len(self._notes.pop(key, (b"", 0.0))[0])

    async def recall(self, key: str) -> bytes | None:
        """See :class:`~gateway.broker.base.Broker`. Raises BROKER_UNAVAILABLE."""
        if key in self._notes:
            return self._notes[key][0]
        name = self.client.key("note", key)
        found: bytes | None = await self.client.call(name, b"GET", name)
        return found

    async def _write_notes(self) -> None:
        while True:
            await self._noted.wait()
            while self._notes:
                failures: list[ProtocolError] = []
                async with trio.open_nursery() as nursery:
                    for key in list(self._notes)[:_NOTES_AT_ONCE]:
                        nursery.start_soon(self._write_note, key, failures)
                if failures:
                    await trio.sleep(_PAUSE)

    async def _write_note(self, key: str, failures: list[ProtocolError]) -> None:
        note = self._notes[key]
        value, until = note
        name = self.client.key("note", key)
        left = math.ceil((until - time.time()) * 1000)
        if left > 0:
            try:
                await self.client.call(name, b"SET", name, value, b"PX", left)
            except ProtocolError as error:
                failures.append(error)
                return
        if self._notes.get(key) is note:
            self._forget(key)

    async def _notes_written(self) -> None:
        while self._notes:  # noqa: ASYNC110 - only at shutdown
            await trio.sleep(_PAUSE / 8)
