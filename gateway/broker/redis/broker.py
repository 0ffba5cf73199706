"""The broker of many nodes: what joins the parts that the package describes."""

from __future__ import annotations

import contextlib
from typing import Final

import structlog
import trio

from gateway.broker.base import Channel, Done, Event, HistoryPage, Since, Sink
from gateway.broker.bounds import HistoryBounds
from gateway.broker.redis.budgets import Budgets
from gateway.broker.redis.client import Client
from gateway.broker.redis.connection import is_over
from gateway.broker.redis.feed import Feed
from gateway.broker.redis.history import read_history
from gateway.broker.redis.notes import SharedNotes
from gateway.broker.redis.packets import Keys
from gateway.broker.redis.repair import UNREACHABLE
from gateway.broker.redis.servers import Servers, Shard
from gateway.broker.redis.turns import Inbox
from gateway.broker.redis.writer import Writer
from gateway.config.redis_address import parse_address
from gateway.config.settings import HistorySettings, RedisSettings

__all__ = ["RedisBroker"]

log = structlog.get_logger(__name__)

_NOTES_PART: Final = 32
"""One organisation's notes may take this part of ``history.total_bytes``."""
_LOOK: Final = 1.0
"""Seconds between two looks at how full the servers are."""
_FAREWELL: Final = 2.0
"""Seconds that a shutdown waits for what is still to be written."""


class RedisBroker:
    """A :class:`~gateway.broker.base.Broker`; ``run`` it, or nothing happens."""

    waits = True

    def __init__(self, address: str, settings: RedisSettings, history: HistorySettings) -> None:
        """Raises ``SettingsError`` for an address that is none. Connects in ``run``, not before."""
        self.sink = Sink()
        self._settings = settings
        self._full: str | None = None
        self._bounds = HistoryBounds(history)
        self._servers = Servers(
            parse_address(address),
            settings,
            use_commands=self._use_commands,
            use_feed=self._use_feed,
            changed=self._changed,
        )
        self._inbox = Inbox(settings.inbox_bytes, lambda: self.sink.settled())
        self._feed = Feed(self._servers, settings, self._inbox, self.sink)
        self.client = Client(self._servers, settings, self._feed)
        """For the other parts of the gateway."""
        self._budgets = Budgets(history, settings.retry_after)
        self._writer = Writer(
            self._servers,
            settings,
            self._bounds,
            self._budgets,
            self.client,
            lambda: self.sink.settled(),
        )
        self._notes = SharedNotes(self.client, history.total_bytes // _NOTES_PART)

    def attach(self, sink: Sink) -> None:
        """See :class:`~gateway.broker.base.Broker`."""
        self.sink = self._feed.sink = sink

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
                        await self._notes.written()
                way_out.cancel()

    async def _stay_connected(self, scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._servers.run)
                nursery.start_soon(self._writer.run)
                nursery.start_soon(self._notes.run)
                nursery.start_soon(self._budgets.run, self.client)
                nursery.start_soon(self._watch_memory)

    async def _use_commands(self, shard: Shard) -> None:
        self._writer.retry()

    async def _use_feed(self, shard: Shard) -> None:
        await self._feed.use(shard)

    def _changed(self) -> None:
        self._feed.changed()
        self._writer.retry()

    def ready(self) -> str | None:
        """See :class:`~gateway.broker.base.Broker`."""
        return self._servers.silent(0) or self._full

    async def _watch_memory(self) -> None:
        """Know when a server is full: it answers everything but what would need memory."""
        while True:
            full = None
            for shard in list(self._servers.shards):
                with contextlib.suppress(*UNREACHABLE):
                    if is_over(await shard.commands.call(b"INFO", b"memory")):
                        full = "a server of the broker is full (maxmemory)"
            if full and not self._full:
                log.error("the broker is full", reason="used_memory has reached maxmemory")
            self._full = full
            await trio.sleep(_LOOK)

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
            "broker_full": (
                "Whether a server of the broker has reached its maxmemory",
                float(bool(self._full)),
            ),
            **self._budgets.measures(),
            **self._servers.counts.measures(),
        }

    # --- channels -------------------------------------------------------------------------------

    def submit(self, event: Event, done: Done) -> None:
        """See :class:`~gateway.broker.base.Broker`."""
        self._writer.submit(event, done)

    async def subscribe(self, channel: Channel) -> None:
        """See :class:`~gateway.broker.base.Broker`. Raises BROKER_UNAVAILABLE."""
        followed = self._feed.follow(channel)
        deadline = trio.current_time() + self._settings.timeout
        while not followed.live.is_set():
            with trio.move_on_after(self._settings.patience / 4):
                await followed.live.wait()
            shard = self._servers.of(followed.slot)
            reason = self._servers.reason if shard is None else shard.silent(self._settings.patience)
            if reason is None and trio.current_time() > deadline:
                reason = "it does not confirm a subscription"
            if reason is not None and not followed.live.is_set():
                raise self.client.unavailable(reason)

    def unsubscribe(self, channel: Channel) -> None:
        """See :class:`~gateway.broker.base.Broker`."""
        self._feed.unfollow(channel)

    def position(self, channel: Channel) -> Since | None:
        """See :class:`~gateway.broker.base.Broker`."""
        return self._feed.position(channel)

    async def history(self, channel: Channel, *, since: Since | None, limit: int) -> HistoryPage:
        """See :class:`~gateway.broker.base.Broker`. Raises BROKER_UNAVAILABLE."""
        keys = Keys.of(self._settings.prefix, channel)
        return await self.client.ask(
            keys.stream,
            lambda shard, _: read_history(
                shard, self._servers, self._bounds.of(channel), channel, keys, since=since, limit=limit
            ),
        )

    # --- notes ----------------------------------------------------------------------------------

    def remember(self, org: str, key: str, value: bytes, ttl: float) -> None:
        """See :class:`~gateway.broker.base.Broker`."""
        self._notes.set(org, key, value, ttl)

    async def recall(self, org: str, key: str) -> bytes | None:
        """See :class:`~gateway.broker.base.Broker`. Raises BROKER_UNAVAILABLE."""
        return await self._notes.get(org, key)
