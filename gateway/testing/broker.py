"""A broker in memory that can be slow, stuck, out of reach, or forgetful."""

from __future__ import annotations

import random

import trio

from gateway.broker.base import Channel, Done, Event, HistoryPage, Since
from gateway.broker.memory import MemoryBroker
from gateway.config.settings import HistorySettings
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["FaultyBroker"]


class FaultyBroker(MemoryBroker):
    """The memory broker; its faults are attributes, to be set and taken back at any time."""

    waits = True

    def __init__(self, settings: HistorySettings, *, seed: int = 7) -> None:
        """``seed`` makes the delays the same in every run."""
        super().__init__(settings)
        self.delay = 0.0
        """Seconds at most that a question takes on its way there, and its answer on the way back."""
        self.unreachable = False
        """Questions and events are refused with error 302."""
        self._random = random.Random(seed)
        self._free = trio.Event()
        self._free.set()

    @property
    def stuck(self) -> bool:
        """Questions get no answer until this is taken back."""
        return not self._free.is_set()

    @stuck.setter
    def stuck(self, stuck: bool) -> None:
        if not stuck:
            self._free.set()
        elif not self.stuck:
            self._free = trio.Event()

    def forget(self) -> None:
        """Lose everything, as a restart does: every room begins anew, with another epoch."""
        self._lose_everything()

    def submit(self, event: Event, done: Done) -> None:
        """See :class:`~gateway.broker.base.Broker`."""
        if self.unreachable:
            done(self._refusal())
        else:
            super().submit(event, done)

    async def subscribe(self, channel: Channel) -> None:
        """See :class:`~gateway.broker.base.Broker`."""
        await self._travel()
        await super().subscribe(channel)
        await self._travel()

    async def history(self, channel: Channel, *, since: Since | None, limit: int) -> HistoryPage:
        """See :class:`~gateway.broker.base.Broker`."""
        await self._travel()
        page = await super().history(channel, since=since, limit=limit)
        await self._travel()  # by now the page may be old
        return page

    async def recall(self, org: str, key: str) -> bytes | None:
        """See :class:`~gateway.broker.base.Broker`."""
        await self._travel()
        return await super().recall(org, key)

    def ready(self) -> str | None:
        """See :class:`~gateway.broker.base.Broker`."""
        return "the broker is unavailable" if self.unreachable else None

    async def _travel(self) -> None:
        if self.delay:
            await trio.sleep(self._random.random() * self.delay)
        if self.stuck:
            await self._free.wait()
        if self.unreachable:
            raise self._refusal()

    def _refusal(self) -> ProtocolError:
        return ProtocolError(ErrorCode.BROKER_UNAVAILABLE, "the broker is unavailable", retry_after=1.0)
