"""What the gateway asks of a broker.

A *channel* is one ordered stream of events: a room, an organisation as a whole, or one
user. The broker gives each event of a channel its sequence number, without holes, keeps a
bounded history, and hands the ordered events to ``deliver`` in that order, once each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from gateway.broker.channels import (
    Channel,
    organisation_channel,
    presence_channel,
    room_channel,
    user_channel,
)
from gateway.broker.state import Effect, RoomState
from protocol.envelope import Envelope
from protocol.errors import ProtocolError

__all__ = [
    "Broker",
    "Channel",
    "Done",
    "Effect",
    "Event",
    "HistoryPage",
    "Position",
    "RoomState",
    "Since",
    "Sink",
    "organisation_channel",
    "presence_channel",
    "room_channel",
    "user_channel",
]


class Event:
    """One event on its way. The broker fills in ``seq`` and ``epoch``; then nothing changes it."""

    __slots__ = (
        "channel",
        "critical",
        "data",
        "effect",
        "epoch",
        "event",
        "exclude",
        "exclude_connection",
        "mid",
        "ordered",
        "room",
        "sender",
        "seq",
        "size",
        "ts",
    )

    def __init__(
        self,
        *,
        channel: Channel,
        event: str,
        mid: str,
        ts: int,
        room: str | None = None,
        data: Any = None,
        sender: str | None = None,
        exclude: frozenset[str] | None = None,
        exclude_connection: str | None = None,
        ordered: bool = True,
        critical: bool = False,
        size: int = 0,
        effect: Effect | None = None,
    ) -> None:
        """``ts`` is in ms since 1970; ``exclude`` are users; ``size`` is roughly its memory, in bytes.

        ``effect`` changes the room's state in the step that gives the place; a broker hands it on to nobody.
        An event that is not ``ordered`` (typing, a send to one connection) gets no place and no history.
        """
        self.channel = channel
        self.event = event
        self.mid = mid
        self.ts = ts
        self.room = room
        self.data = data
        self.sender = sender
        self.exclude = exclude
        self.exclude_connection = exclude_connection
        self.ordered = ordered
        self.critical = critical
        self.size = size
        self.effect = effect
        self.seq: int | None = None
        self.epoch: str | None = None

    def envelope(self) -> Envelope:
        """What a subscriber receives."""
        return Envelope(
            "event",
            room=self.room,
            event=self.event,
            data=self.data,
            seq=self.seq,
            epoch=self.epoch,
            ts=self.ts,
            mid=self.mid,
            sender=self.sender,
            critical=self.critical or None,
            to=self.channel.to,
        )

    def describe(self) -> dict[str, Any]:
        """What a page of history holds of it."""
        whole = {
            "seq": self.seq,
            "event": self.event,
            "data": self.data,
            "ts": self.ts,
            "mid": self.mid,
            "sender": self.sender,
            "critical": self.critical or None,
        }
        return {key: value for key, value in whole.items() if value is not None}


class Position(NamedTuple):
    """The place that an event got."""

    seq: int
    epoch: str
    mid: str


class Since(NamedTuple):
    """The last event that somebody has."""

    epoch: str
    seq: int


class HistoryPage(NamedTuple):
    """A run of kept events, oldest first."""

    events: list[Event]
    epoch: str
    seq: int
    """The newest sequence number of the channel, 0 when nothing was ever published."""
    more: bool
    """More kept events follow the last one of this page."""
    complete: bool
    """Nothing between ``since`` and the first event of this page is gone."""
    state: RoomState = MappingProxyType({})
    """The channel's state as it is at ``seq``."""


Done = Callable[[Position | ProtocolError], None]


def _ignore(*_: object) -> None:
    """Nobody is attached."""


@dataclass(slots=True)
class Sink:
    """What a broker calls; nothing of it may wait."""

    deliver: Callable[[Event], None] = _ignore
    """Takes each event of a subscribed channel, in order."""
    lost: Callable[[Channel, int, int], None] = _ignore
    """Of a subscribed channel, the events of these numbers (both included) will not come."""
    reset: Callable[[Channel, str, int], None] = _ignore
    """A subscribed channel's order goes on in another epoch, after this number."""
    settled: Callable[[], None] = _ignore
    """A run of events and answers is through that no call of ours caused."""


class Broker(Protocol):
    """One node's access to the log. All of it belongs to the task that runs :meth:`run`."""

    sink: Sink
    """Where events go; see :meth:`attach`."""
    waits: bool
    """Whether a question may wait, so that it needs a deadline."""

    def attach(self, sink: Sink) -> None:
        """Have ``sink`` called from now on; once, before ``run``."""

    async def run(self) -> None:
        """Work until cancelled."""

    def submit(self, event: Event, done: Done) -> None:
        """Give ``event`` its place; ``done`` is called once, with the place or with a numbered 3xx error.

        Refused with TOO_LARGE is an event whose effect would pass ``STATE_BYTES``, and with OVERLOADED one of
        an organisation that has used up its share of what the broker keeps. Never waits. An event whose
        ``mid`` is already in the channel's window gets the place of the first.
        """

    async def subscribe(self, channel: Channel) -> None:
        """Have the channel's events delivered on this node, from now on."""

    def unsubscribe(self, channel: Channel) -> None:
        """The last local member is gone."""

    def position(self, channel: Channel) -> Since | None:
        """The last event of a subscribed channel that has come to this node.

        None while that is not known, and where it costs no less to ask :meth:`history`.
        """

    async def history(self, channel: Channel, *, since: Since | None, limit: int) -> HistoryPage:
        """At most ``limit`` kept events: those after ``since``, or with None the newest."""

    def remember(self, org: str, key: str, value: bytes, ttl: float) -> None:
        """Keep ``value`` for ``ttl`` seconds, as well as can be; never waits, never fails.

        What is kept counts against the organisation's share, from which its own oldest goes first.
        """

    async def recall(self, org: str, key: str) -> bytes | None:
        """What the organisation remembered under ``key``, on whichever node; None when it is gone."""

    def ready(self) -> str | None:
        """None when events can be published now, else the reason why not."""

    def measures(self) -> dict[str, tuple[str, float]]:
        """For the metrics: name → what it is, and its value now; a name in ``_total`` is a counter's."""
