"""What commands, joining and catching up may use of their session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from gateway.auth.identity import Identity
from gateway.broker.base import Event, HistoryPage, Since
from gateway.hub.connection import Connection
from gateway.hub.room import Membership
from gateway.session.services import Services
from gateway.session.transport import Transport
from protocol.envelope import Envelope
from protocol.errors import ProtocolError

__all__ = ["Context"]


class Context(Protocol):
    """One client's session, as seen from below. None of its methods waits."""

    services: Services
    transport: Transport
    connection: Connection | None
    """None until the client is known."""
    resume_token: str
    pending: int
    """Publishes that wait for the broker, and calls under way."""

    def send(self, envelope: Envelope) -> None:
        """Queue one message to the client."""

    def reply(self, envelope: Envelope, **fields: Any) -> None:
        """Answer a command that asked for an answer."""

    def refuse(self, error: ProtocolError, envelope: Envelope | None = None) -> None:
        """Answer with a numbered error; close where it says that the connection cannot go on."""

    def replay(self, event: Event) -> bool:
        """Send an event later than to the others; False when the socket is full, and it was not sent."""

    def replay_missed(
        self, place: Membership, missed: Sequence[Event], page: HistoryPage, since: Since
    ) -> None:
        """Send what was missed before a join; what does not fit now follows as the socket drains."""

    def set_expiry(self, identity: Identity) -> None:
        """End the connection when this identity's token ends."""

    def count_joins(self, number: int) -> None:
        """Rooms were entered by one command: each counts for the rate of joins."""

    def count_users(self, number: int) -> None:
        """One command went to so many users: each counts as a command."""

    def start_typing(self, room: str) -> None:
        """Announce typing, or prolong it; it stops by itself."""

    def stop_typing(self, room: str) -> None:
        """Announce the end of typing, if there was any."""
