"""What the gateway asks of a broker.

A *channel* is one ordered stream of events: a room, an organisation as a whole, or one
user. The broker gives each event of a channel its sequence number, without holes, keeps a
bounded history, and hands the ordered events to ``deliver`` in that order, once each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from protocol.envelope import Envelope
from protocol.errors import ProtocolError

__all__ = [
    "Broker",
    "Done",
    "Event",
    "HistoryPage",
    "Position",
    "Since",
    "has_order",
    "organisation_channel",
    "presence_channel",
    "room_channel",
    "user_channel",
]

# No name of an organisation, a user or a room holds U+0000, so none can reach into another's channel.


def room_channel(org: str, room: str) -> str:
    """The channel of a room."""
    return f"{org}\0r\0{room}"


def organisation_channel(org: str) -> str:
    """The channel that reaches a whole organisation."""
    return f"{org}\0o"


def user_channel(org: str, user: str) -> str:
    """The channel that reaches all connections of one user."""
    return f"{org}\0u\0{user}"


def presence_channel(channel: str) -> str:
    """The channel in which nodes tell each other who comes to and goes from ``channel``."""
    return f"{channel}\0p"


def has_order(channel: str) -> bool:
    """Tell whether events of this channel may have a place: not what is sent to a user, nor presence."""
    return "\0u\0" not in channel and not channel.endswith("\0p")


class Event:
    """One event on its way. The broker fills in ``seq`` and ``epoch``; then nothing changes it."""

    __slots__ = (
        "channel",
        "critical",
        "data",
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
        channel: str,
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
    ) -> None:
        """``ts`` is in ms since 1970; ``exclude`` are users; ``size`` is roughly its memory, in bytes.

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


Done = Callable[[Position | ProtocolError], None]


class Broker(Protocol):
    """One node's access to the log. All of it belongs to the task that runs :meth:`run`."""

    deliver: Callable[[Event], None]
    """Set by the hub before ``run``: takes each event of a subscribed channel, in order; must not wait."""
    lost: Callable[[str, int, int], None]
    """Set likewise: of a subscribed channel, the events of these numbers (both included) will not come."""
    reset: Callable[[str, str, int], None]
    """Set likewise: a subscribed channel's order goes on in another epoch, after this number."""
    settled: Callable[[], None]
    """Set likewise: called when a run of events and answers is through that no call of ours caused."""

    async def run(self) -> None:
        """Work until cancelled."""

    def submit(self, event: Event, done: Done) -> None:
        """Give ``event`` its place; ``done`` is called once, with the place or with a numbered 3xx error.

        Never waits. An event whose ``mid`` is already in the channel's window gets the place of the first.
        """

    async def subscribe(self, channel: str) -> None:
        """Have the channel's events delivered on this node, from now on."""

    def unsubscribe(self, channel: str) -> None:
        """The last local member is gone."""

    async def history(self, channel: str, *, since: Since | None, limit: int) -> HistoryPage:
        """At most ``limit`` kept events: those after ``since``, or with None the newest."""

    def remember(self, key: str, value: bytes, ttl: float) -> None:
        """Keep ``value`` for ``ttl`` seconds, as well as can be; never waits, never fails."""

    async def recall(self, key: str) -> bytes | None:
        """What was remembered under ``key``, on whichever node; None when it is gone."""

    def ready(self) -> str | None:
        """None when events can be published now, else the reason why not."""

    def measures(self) -> dict[str, tuple[str, float]]:
        """For the metrics: name → what it is, and its value now; a name in ``_total`` is a counter's."""
