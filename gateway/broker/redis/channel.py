"""The channels that this node follows: what of each has come, and what comes next.

A packet that is published arrives twice: at once through pub/sub, and for good in the channel's
stream. Pub/sub gives no promise, so each packet says where it belongs: its epoch, its first number and
the tag of the packet before it. One that follows exactly on the last one is taken; anything else
(a hole, a repetition, another epoch, another history) means that this node and Redis have to compare
notes, and the channel is *checked*: meanwhile packets are parked, and what is missing is read from the
stream (``repair.py``). What cannot be had any more is announced, never skipped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final

import structlog
import trio

from gateway.broker.base import Channel, Sink
from gateway.broker.redis.packets import Keys, Packet, parse
from gateway.broker.redis.scripts import NO_TAG
from gateway.broker.redis.servers import Shard, slot_of
from gateway.broker.redis.turns import Inbox

__all__ = ["Followed", "Line", "Phase"]

log = structlog.get_logger(__name__)

_PARKED: Final = 64
_NOTICE: Final = 100
"""What a notice counts for in the inbox, in bytes."""


class Phase(Enum):
    """How far a channel is."""

    ASKED = 0  # the server has not confirmed the subscription
    CHECKED = 1  # being compared with the stream
    LIVE = 2  # what comes next is known, and taken as it comes


class Followed:
    """One followed channel. ``epoch``, ``seq`` and ``tag`` are of the last packet put into the inbox."""

    __slots__ = (
        "_inbox",
        "_parked",
        "_sink",
        "asked_at",
        "attempt",
        "epoch",
        "idle_since",
        "keys",
        "live",
        "name",
        "ordered",
        "org",
        "phase",
        "seq",
        "shard",
        "slot",
        "tag",
    )

    def __init__(self, name: Channel, keys: Keys, inbox: Inbox, sink: Sink) -> None:
        self.name = name
        self.keys = keys
        self.slot = slot_of(keys.stream)
        self.org = name.org
        self.ordered = name.ordered
        self.phase = Phase.ASKED
        self.live = trio.Event()
        """Set while the phase is LIVE."""
        self.epoch = ""
        """Empty: nothing is known yet, and whatever Redis says is where it begins."""
        self.seq = 0
        self.tag = NO_TAG
        self.shard: Shard | None = None
        self.asked_at = 0.0
        self.attempt = 0
        """Counts the checks: what an earlier one found counts no more."""
        self.idle_since: float | None = None
        """Since when nobody here wants it; what comes is counted, but not delivered."""
        self._inbox = inbox
        self._sink = sink
        self._parked: deque[Packet] = deque(maxlen=_PARKED)

    # --- what comes -----------------------------------------------------------------------------

    def pushed(self, payload: bytes) -> bool:
        """Take a packet from pub/sub; returns False when the channel has to be checked."""
        try:
            packet = parse(payload)
        except ValueError:
            log.warning("unreadable message on a channel of this name", channel=self.keys.stream)
            return True
        if not packet.ordered:
            self._put(packet, 0)
            return True
        if self.phase is not Phase.LIVE:
            self._parked.append(packet)
            return True
        if self._follows(packet):
            self.take(packet)
            return True
        self.unsettle(Phase.CHECKED)
        return False

    def _follows(self, packet: Packet) -> bool:
        return packet.prev == self.tag and packet.epoch == self.epoch

    def take(self, packet: Packet) -> None:
        """Deliver what of ``packet`` is new; it is the next one."""
        self._put(packet, self.seq)
        self.seq = packet.last
        self.tag = packet.tag

    # --- checking -------------------------------------------------------------------------------

    def unsettle(self, phase: Phase) -> None:
        """What is known may not be right any more."""
        if self.live.is_set():
            self.live = trio.Event()
        self.phase = phase

    def begin_reading(self) -> int:
        """The stream is about to be read: whatever was pushed until now will be in what is read.

        Returns the number of the attempt.
        """
        self._parked.clear()
        self.attempt += 1
        return self.attempt

    def begin_at(self, epoch: str, seq: int, tag: str) -> None:
        """Nothing was delivered yet; the next packet is the one after this."""
        self.epoch, self.seq, self.tag = epoch, seq, tag

    def restart(self, epoch: str, base: int) -> None:
        """Redis lost data: the order goes on after ``base`` in another epoch, and the members are told."""
        self.epoch, self.seq, self.tag = epoch, base, NO_TAG
        self._note(lambda: self._sink.reset(self.name, epoch, base))

    def skip(self, last: int, tag: str) -> None:
        """The stream no longer has what comes next, up to ``last``; the members are told."""
        first = self.seq + 1
        self.seq = last
        self.tag = tag
        self._note(lambda: self._sink.lost(self.name, first, last))

    def settle(self) -> bool:
        """All that was read is taken; returns False when it has to be checked once more."""
        parked, self._parked = self._parked, deque(maxlen=_PARKED)
        for packet in parked:
            if packet.epoch == self.epoch and packet.last <= self.seq:
                continue
            if not self._follows(packet):
                return False
            self.take(packet)
        self.phase = Phase.LIVE
        self.live.set()
        return True

    # --- handing on -----------------------------------------------------------------------------

    def _put(self, packet: Packet, after: int) -> None:
        if self.idle_since is None:
            self._inbox.put(self.org, self._deliver(packet, after), packet.size)

    def _deliver(self, packet: Packet, after: int) -> Iterator[None]:
        try:
            events = packet.events(self.name, after)
        except ValueError:
            log.exception("unreadable packet", channel=self.keys.stream, first=packet.first)
            if packet.ordered:
                self._sink.lost(self.name, max(packet.first, after + 1), packet.last)
            return
        deliver = self._sink.deliver
        for event in events:
            deliver(event)
            yield

    def _note(self, call: Callable[[], None]) -> None:
        """Say something to the hub, behind the events that are still to be delivered."""
        if self.idle_since is None:
            self._inbox.put(self.org, _once(call), _NOTICE)


class Line(Followed):
    """A name to which nodes tell things that have no order and are not kept."""

    __slots__ = ("_heard", "_joined")

    def __init__(
        self,
        channel: Channel,
        keys: Keys,
        heard: Callable[[bytes], None],
        joined: Callable[[], None],
        inbox: Inbox,
    ) -> None:
        super().__init__(channel, keys, inbox, Sink())
        self._heard = heard
        self._joined = joined

    def pushed(self, payload: bytes) -> bool:
        """Hand on what is told."""
        self._heard(payload)
        return True

    def settle(self) -> bool:
        """The subscription is confirmed."""
        self._joined()
        return super().settle()


def _once(call: Callable[[], None]) -> Iterator[None]:
    call()
    yield
