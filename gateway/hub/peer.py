"""What the lower files of the hub need of a connection and of the client behind it.

``Connection`` knows its rooms and its organisation; these know it by ``Member`` only, so that imports run
one way.
"""

from __future__ import annotations

from typing import Protocol

from gateway.broker.base import Event
from gateway.hub.lag import Backlog
from gateway.wire.outbox import Outbox
from protocol.encoding import Encoding
from protocol.patterns import EventFilter

__all__ = ["Member", "Peer"]


class Peer(Protocol):
    """The live end of a connection, as far as the hub needs it."""

    outbox: Outbox

    def close(self, code: int, reason: str, *, retry_after: float | None = None) -> None:
        """Tell the client, then close."""

    def give_way(self, token: str) -> bytes:
        """If ``token`` is its resume token: close it with 4502, and return what that stands for."""

    def catch_up(self) -> None:
        """Some of its rooms lag: send what they missed as soon as the socket has drained."""

    def dropped(self, event: Event, policy: str) -> None:
        """An overflow policy gave ``event`` up."""

    def is_typing(self, room: str) -> bool:
        """Tell whether the client types in ``room``."""

    @property
    def received_messages(self) -> int:
        """Messages that came in."""

    @property
    def received_bytes(self) -> int:
        """Bytes that came in, with their framing."""


class Member(Protocol):
    """A connection as its rooms see it."""

    @property
    def id(self) -> str:
        """Unique among all nodes."""

    @property
    def org(self) -> str:
        """The organisation's name."""

    @property
    def user(self) -> str | None:
        """The user, or None for a token without one."""

    @property
    def encoding(self) -> Encoding:
        """How events are written for it."""

    @property
    def filter(self) -> EventFilter:
        """What may reach it, in any room."""

    @property
    def outbox(self) -> Outbox:
        """Where events are queued for it."""

    @property
    def peer(self) -> Peer:
        """The client's live end."""

    @property
    def backlog(self) -> Backlog:
        """What its lagging rooms keep."""

    def excluded_from(self, event: Event) -> bool:
        """Tell whether the event names this connection or its user as one to leave out."""
