"""Comparing what was delivered with what Redis has, and delivering what is missing.

``ask`` puts channels in line; up to ``_GROUP`` of one shard are compared with one call of the script CHECK.
What that says decides: nothing new (the channel is live), something missing (it is read from the
stream, page by page, as fast as it is delivered), or another epoch (the members are told, and what the new
epoch has is read). When Redis is away, or in transition, the channel stays in line.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import structlog
import trio

from gateway.broker.base import RoomState
from gateway.broker.redis.channel import Followed, Phase
from gateway.broker.redis.connection import AskError, LinkLost, MovedError, NotNow, Refused
from gateway.broker.redis.packets import Packet, parse
from gateway.broker.redis.scripts import CHECK, READ, CheckCall, ReadCall, pack
from gateway.broker.redis.servers import Servers, Shard
from gateway.broker.redis.turns import Inbox, Throttle, Wake
from gateway.config.settings import RedisSettings

__all__ = [
    "UNREACHABLE",
    "UNUSED",
    "Page",
    "Place",
    "Repairs",
    "check",
    "grouped",
    "new_epoch",
    "read",
]

log = structlog.get_logger(__name__)

UNREACHABLE: Final = (LinkLost, NotNow, MovedError, AskError, Refused)
"""Why a question may get no answer now."""

_GROUP: Final = 64
_READERS: Final = 16
"""Streams that are read at the same time."""
_PAGE: Final = 32
"""Packets that are read at once."""
_PAUSE: Final = 0.1
_PAUSE_REFUSED: Final = 1.0
"""Seconds until a channel is compared again of which Redis has something that it cannot compare."""
UNUSED: Final = "unused"
"""Stands for the epoch of a channel of which Redis has nothing: no order has that name."""
_UNUSED: Final = 60.0
"""Seconds for which the order of a room is remembered, after its last member, that was never used."""


class Place(NamedTuple):
    """Where a channel stands in Redis."""

    epoch: str
    base: int
    """The number after which this epoch began."""
    seq: int
    tag: str


class Page(NamedTuple):
    """A run of packets, and where the channel stood when it was read."""

    place: Place
    packets: list[Packet]
    state: RoomState
    """As it is at ``place``."""
    ages: list[float | None]
    """Of each packet the seconds since it was written, by Redis' clock; None where that is unknown."""


async def check(
    shard: Shard, servers: Servers, settings: RedisSettings, known: Sequence[tuple[Followed, str, int, str]]
) -> list[Place | Refused]:
    """Compare what is ``known`` of channels (epoch, seq, tag): where each stands, or why that cannot be told.

    Raises ``UNREACHABLE``.
    """
    call = CheckCall(
        newborn=new_epoch(),
        tell=servers.publish,
        forget=int(settings.forget * 1000),
        forget_unused=int(min(settings.forget, _UNUSED + 3 * settings.sweep) * 1000),
        known=[(epoch, seq, tag) for _, epoch, seq, tag in known],
    )
    keys = [key for channel, *_ in known for key in channel.keys]
    rows = await servers.follow(
        shard, lambda at, asking: at.commands.run_script(CHECK, keys, [pack(call)], asking=asking)
    )
    return [_place(row) if isinstance(row, list) else Refused(row.decode()) for row in rows]


async def read(
    shard: Shard, servers: Servers, keys: Sequence[str], *, epoch: str, seq: int, back: int, count: int
) -> Page:
    """At most ``count`` packets after ``seq`` of ``epoch``; when that is not of this order, the last ``back``
    events of what there is. Raises ``UNREACHABLE``.
    """
    words: list[bytes | str | int] = [pack(ReadCall(UNUSED, epoch, seq, back, count))]
    row = await servers.follow(
        shard, lambda at, asking: at.commands.run_script(READ, list(keys), words, asking=asking)
    )
    packets, ages = [], []
    for text, age in zip(row[4], row[6], strict=True):
        try:
            packets.append(parse(text))
            ages.append(None if age < 0 else age / 1000)
        except ValueError:  # somebody else's: what is missing in its place will be told
            log.warning("unreadable entry in this stream", stream=keys[0])
    state = {
        name.decode(): msgspec.json.decode(value)
        for name, value in zip(row[5][::2], row[5][1::2], strict=True)
    }
    return Page(_place(row), packets, state, ages)


def grouped(channels: Iterable[Followed], servers: Servers) -> Iterator[list[Followed]]:
    """The channels in groups that one call of CHECK takes: in a cluster all of one slot."""
    by_slot: dict[int, list[Followed]] = {}
    for channel in channels:
        by_slot.setdefault(channel.slot if servers.cluster else 0, []).append(channel)
    for group in by_slot.values():
        for start in range(0, len(group), _GROUP):
            yield group[start : start + _GROUP]


def new_epoch() -> str:
    """A name for an order that begins, if one does."""
    return secrets.token_urlsafe(6)


def _place(row: Any) -> Place:
    return Place(row[0].decode(), int(row[1]), int(row[2]), row[3].decode())


class Repairs:
    """The channels that are being checked."""

    def __init__(
        self, servers: Servers, settings: RedisSettings, inbox: Inbox, current: Callable[[Followed], bool]
    ) -> None:
        """``current`` tells whether a channel is still followed."""
        self._servers = servers
        self._settings = settings
        self._inbox = inbox
        self._current = current
        self._waiting: dict[Followed, None] = {}
        self._wake = Wake()
        self._readers = trio.CapacityLimiter(_READERS)
        self._said = Throttle()

    def ask(self, channel: Followed) -> None:
        """Have a channel checked; its phase is CHECKED."""
        self._waiting[channel] = None
        self._wake.set()

    async def run(self) -> None:
        """Check until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._wake.wait()
                waiting, self._waiting = self._waiting, {}
                for group in grouped(waiting, self._servers):
                    nursery.start_soon(self._check, group)

    async def _check(self, group: list[Followed]) -> None:
        shard = self._servers.of(group[0].slot)
        try:
            if shard is None:
                raise LinkLost("the cluster is not known")
            async with self._readers:
                attempts = [channel.begin_reading() for channel in group]
                known = [(channel, channel.epoch, channel.seq, channel.tag) for channel in group]
                places = await check(shard, self._servers, self._settings, known)
        except UNREACHABLE as error:
            await self._later(group, error)
            return
        async with trio.open_nursery() as nursery:
            for channel, place, attempt in zip(group, places, attempts, strict=True):
                if not self._is_on(channel, attempt):
                    continue
                if isinstance(place, Refused):
                    nursery.start_soon(self._later, [channel], place)
                    continue
                if self._compare(channel, place):
                    self._settle(channel)
                else:
                    nursery.start_soon(self._catch_up, shard, channel, attempt)
            self._inbox.work()

    def _is_on(self, channel: Followed, attempt: int) -> bool:
        """Nothing has made this check pointless."""
        return channel.attempt == attempt and channel.phase is Phase.CHECKED and self._current(channel)

    def _settle(self, channel: Followed) -> None:
        if not channel.settle():
            self.ask(channel)

    async def _later(self, group: list[Followed], error: Exception) -> None:
        if isinstance(error, Refused):
            if self._said.may(group[0].keys.stream):
                log.error("broker refused to compare rooms", channel=group[0].keys.stream, reason=str(error))
            await trio.sleep(_PAUSE_REFUSED)
        else:
            self._servers.moved()
            await trio.sleep(_PAUSE)
        for channel in group:
            if self._current(channel) and channel.phase is Phase.CHECKED:
                self.ask(channel)

    def _compare(self, channel: Followed, place: Place) -> bool:
        """Take note of where the channel stands in Redis; False when there is something to be read."""
        if not channel.epoch:
            channel.begin_at(place.epoch, place.seq, place.tag)
        elif place.epoch != channel.epoch:
            log.warning("the broker lost data", channel=channel.keys.stream, epoch=place.epoch)
            self._servers.counts.resets += 1
            channel.restart(place.epoch, place.base)
        return channel.seq >= place.seq

    async def _catch_up(self, shard: Shard, channel: Followed, attempt: int) -> None:
        """Read from the stream up to its end."""
        self._servers.counts.repairs += 1
        while True:
            await self._inbox.room()
            if not self._is_on(channel, attempt):
                return
            try:
                async with self._readers:
                    attempt = channel.begin_reading()
                    page = await read(
                        shard,
                        self._servers,
                        channel.keys,
                        epoch=channel.epoch,
                        seq=channel.seq,
                        back=0,
                        count=_PAGE,
                    )
            except UNREACHABLE as error:
                await self._later([channel], error)
                return
            if not self._is_on(channel, attempt):
                return
            follows = page.place.epoch == channel.epoch and self._append(channel, page)
            if not follows:
                self.ask(channel)
            elif channel.seq >= page.place.seq:
                self._settle(channel)
            self._inbox.work()
            if not follows or channel.phase is Phase.LIVE:
                return

    def _append(self, channel: Followed, page: Page) -> bool:
        """Deliver what was read; False when it is not the continuation of what was delivered."""
        for packet in page.packets:
            if packet.first > channel.seq + 1:
                self._skip(channel, packet.first - 1, packet.prev)
            if packet.first == channel.seq + 1 and packet.prev != channel.tag:
                return False
            if packet.last > channel.seq:
                channel.take(packet)
        if not page.packets and channel.seq < page.place.seq:
            self._skip(channel, page.place.seq, page.place.tag)
        return True

    def _skip(self, channel: Followed, last: int, tag: str) -> None:
        self._servers.counts.lost += last - channel.seq
        log.warning(
            "events are no longer in the stream", channel=channel.keys.stream, count=last - channel.seq
        )
        channel.skip(last, tag)
