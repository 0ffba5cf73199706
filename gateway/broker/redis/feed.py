"""What this node follows: subscriptions on each shard's feed, and what comes in on them.

``subscribe`` returns when the server has confirmed the subscription and the channel's position was read
after that; whatever is published later is delivered. A channel that nobody wants any more stays
subscribed for ``linger`` seconds: rooms are left and entered again more often than not.

When a feed is lost, every channel of it is asked for again and then checked, which brings what was missed
meanwhile. And since nothing that is lost unseen can be noticed by looking at what comes, every ``sweep``
seconds all positions are compared with Redis.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

import structlog
import trio

from gateway.broker.base import Channel, Since, Sink
from gateway.broker.channels import line_channel
from gateway.broker.redis.channel import Followed, Line, Phase
from gateway.broker.redis.connection import LinkLost
from gateway.broker.redis.packets import Keys
from gateway.broker.redis.repair import UNREACHABLE, Place, Repairs, check, grouped
from gateway.broker.redis.servers import Servers, Shard
from gateway.broker.redis.turns import Inbox
from gateway.config.settings import RedisSettings

__all__ = ["Feed"]

log = structlog.get_logger(__name__)

_CHUNK: Final = 500
"""Names in one SUBSCRIBE."""
_GRACE: Final = 1.0
"""Seconds that a message may take from Redis through the inbox before its absence means something."""
_MESSAGES: Final = (b"message", b"smessage")
_CONFIRMED: Final = (b"subscribe", b"ssubscribe")


class Feed:
    """All followed channels, by the name of their stream."""

    def __init__(self, servers: Servers, settings: RedisSettings, inbox: Inbox, sink: Sink) -> None:
        self._servers = servers
        self._settings = settings
        self._inbox = inbox
        self.sink = sink
        self._channels: dict[bytes, Followed] = {}
        self._idle: OrderedDict[Followed, None] = OrderedDict()
        self._asked: dict[Followed, None] = {}
        """Those whose subscription is not confirmed."""
        self.repairs = Repairs(servers, settings, inbox, self._is_followed)

    def __len__(self) -> int:
        return len(self._channels)

    def _is_followed(self, channel: Followed) -> bool:
        return self._channels.get(channel.keys.stream.encode()) is channel

    # --- what is wanted -------------------------------------------------------------------------

    def follow(self, name: Channel) -> Followed:
        """Have a channel followed; ``live`` is set when it is."""
        keys = Keys.of(self._settings.prefix, name)
        stream = keys.stream.encode()
        channel = self._channels.get(stream)
        if channel is None:
            channel = self._channels[stream] = Followed(name, keys, self._inbox, self.sink)
            self._ask([channel])
        elif channel.idle_since is not None:
            channel.idle_since = None
            self._idle.pop(channel, None)
        return channel

    def unfollow(self, name: Channel) -> None:
        """Nobody here wants it any more."""
        channel = self._channels.get(Keys.of(self._settings.prefix, name).stream.encode())
        if channel is not None and channel.idle_since is None:
            channel.idle_since = trio.current_time()
            self._idle[channel] = None

    def position(self, name: Channel) -> Since | None:
        """The last event of a channel that has come; None unless what comes next is known."""
        channel = self._channels.get(Keys.of(self._settings.prefix, name).stream.encode())
        if channel is None or channel.phase is not Phase.LIVE:
            return None
        return Since(channel.epoch, channel.seq)

    def name_of_line(self, name: str) -> str:
        """The name in pub/sub of what nodes tell each other; no organisation's name is empty."""
        return Keys.of(self._settings.prefix, line_channel(name)).stream

    def listen(self, name: str, heard: Callable[[bytes], None], joined: Callable[[], None]) -> None:
        """Have ``heard`` called with what is told to ``name``, for good."""
        channel = line_channel(name)
        keys = Keys.of(self._settings.prefix, channel)
        line = self._channels[keys.stream.encode()] = Line(channel, keys, heard, joined, self._inbox)
        self._ask([line])

    def changed(self) -> None:
        """Channels may be on other shards than they were."""
        moved = [each for each in self._channels.values() if self._servers.of(each.slot) is not each.shard]
        self._ask(moved)

    def _ask(self, channels: Iterable[Followed]) -> None:
        """Subscribe; where there is no connection now, ``use`` will do it when there is."""
        by_shard: dict[Shard, list[Followed]] = {}
        for channel in channels:
            channel.unsettle(Phase.ASKED)
            channel.asked_at = trio.current_time()
            self._asked[channel] = None
            channel.shard = self._servers.of(channel.slot)
            if channel.shard is not None and channel.shard.feed.usable:
                by_shard.setdefault(channel.shard, []).append(channel)
        for shard, group in by_shard.items():
            names = [channel.keys.stream for channel in group]
            try:
                if self._servers.cluster:
                    for name in names:
                        shard.feed.tell(b"SSUBSCRIBE", name)
                    continue
                for start in range(0, len(names), _CHUNK):
                    shard.feed.tell(b"SUBSCRIBE", *names[start : start + _CHUNK])
            except LinkLost:
                continue

    # --- what comes -----------------------------------------------------------------------------

    async def use(self, shard: Shard) -> None:
        """Take what a shard's feed brings, for as long as the connection lasts; raises LinkLost."""
        feed = shard.feed
        self._ask([each for each in self._channels.values() if self._servers.of(each.slot) is shard])
        while True:
            for push in await feed.pushes():
                self._pushed(push)
            # Here and now: handing it to another task would cost each message a turn of the scheduler.
            self._inbox.work()
            if self._inbox.full:
                await feed.hold(self._inbox.room)

    def _pushed(self, push: list[bytes]) -> None:
        kind = push[0]
        channel = self._channels.get(push[1])
        if channel is None:
            return
        if kind in _MESSAGES:
            self._servers.counts.entries += 1
            if not channel.pushed(push[2]):
                self.repairs.ask(channel)
        elif kind in _CONFIRMED:
            if channel.phase is Phase.ASKED:
                self._confirmed(channel)
        elif kind == b"sunsubscribe":
            # The slot has moved away from this server.
            channel.unsettle(Phase.ASKED)
            self._asked[channel] = None
            self._servers.moved()

    def _confirmed(self, channel: Followed) -> None:
        channel.phase = Phase.CHECKED
        del self._asked[channel]
        if channel.ordered:
            self.repairs.ask(channel)
        else:
            channel.settle()

    # --- looking after it -----------------------------------------------------------------------

    async def run(self) -> None:
        """Check, compare and forget until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.repairs.run)
            nursery.start_soon(self._sweep)
            while True:
                await trio.sleep(min(1.0, self._settings.linger))
                self._forget()
                self._ask_again()

    def _forget(self) -> None:
        """Drop the channels that nobody has wanted for a while."""
        limit = trio.current_time() - self._settings.linger
        gone: dict[Shard, list[str]] = {}
        while self._idle:
            channel = next(iter(self._idle))
            if channel.idle_since is None or channel.idle_since > limit:
                break
            shard = channel.shard
            if shard is not None and shard.feed.usable:
                if channel.phase is Phase.ASKED:
                    break  # the confirmation must not be taken for that of a later subscription
                gone.setdefault(shard, []).append(channel.keys.stream)
            del self._idle[channel]
            del self._channels[channel.keys.stream.encode()]
            self._asked.pop(channel, None)
        for shard, names in gone.items():
            try:
                if self._servers.cluster:
                    for name in names:
                        shard.feed.tell(b"SUNSUBSCRIBE", name)
                else:
                    shard.feed.tell(b"UNSUBSCRIBE", *names)
            except LinkLost:
                continue

    def _ask_again(self) -> None:
        """A cluster's node refuses a subscription to a slot that it does not have, where nobody sees it."""
        late = trio.current_time() - self._settings.timeout / 2
        asked = [channel for channel in self._asked if channel.asked_at < late]
        if asked:
            self._servers.moved()
            self._ask(asked)

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(self._settings.sweep)
            behind: list[tuple[Followed, Place]] = []
            channels = list(self._channels.values())
            for start in range(0, len(channels), _CHUNK):
                live = [
                    each for each in channels[start : start + _CHUNK] if each.ordered and each.live.is_set()
                ]
                for group in grouped(live, self._servers):
                    behind += await self._compare(group)
            if behind:
                await trio.sleep(_GRACE)
                self._missing(behind)

    async def _compare(self, group: list[Followed]) -> list[tuple[Followed, Place]]:
        shard = self._servers.of(group[0].slot)
        if shard is None or not shard.commands.usable:
            return []
        known = [(channel, channel.epoch, channel.seq, channel.tag) for channel in group]
        try:
            places = await check(shard, self._servers, self._settings, known)
        except UNREACHABLE:
            return []
        return [
            (channel, place)
            for channel, place in zip(group, places, strict=True)
            if isinstance(place, Place) and (place.epoch != channel.epoch or place.seq > channel.seq)
        ]

    def _missing(self, behind: list[tuple[Followed, Place]]) -> None:
        for channel, place in behind:
            same = place.epoch == channel.epoch
            if (
                not self._is_followed(channel)
                or channel.phase is not Phase.LIVE
                or (same and place.seq <= channel.seq)
            ):
                continue
            log.warning("a broker message was lost", channel=channel.keys.stream)
            channel.unsettle(Phase.CHECKED)
            self.repairs.ask(channel)
            if channel.shard is not None:
                channel.shard.feed.drop("it is silent about what is published")
