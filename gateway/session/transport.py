"""The seam between a session and whatever carries it: a WebSocket today, anything else tomorrow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from gateway.wire.outbox import Outbox

__all__ = ["Transport"]


class Transport(Protocol):
    """What carries one session's messages. None of its methods waits.

    A transport calls the session: ``on_message`` for each message that came in (what that returns is
    awaited before the next one), ``on_deadline`` when the Trio time ``session.deadline`` has come, and
    ``ended`` when it is over.
    """

    message_bytes: int
    """The largest message that it takes in; less before the client has authenticated."""
    close_code: int
    """Why it ended, or is about to; 1006 when nobody said so."""

    @property
    def outbox(self) -> Outbox:
        """Takes what the client is to get, in its order. When it is full the transport closes with 4001."""

    @property
    def received_messages(self) -> int:
        """Messages that came in."""

    @property
    def received_bytes(self) -> int:
        """Bytes that came in, with their framing."""

    @property
    def kind(self) -> str:
        """Its name: ``websocket``."""

    @property
    def closing(self) -> bool:
        """It has ended, or takes nothing more and is about to."""

    def close(self, code: int, reason: str = "", *, flush_timeout: float = 0.0) -> None:
        """Send what is queued, then end with ``code``.

        A client that does not read has ``flush_timeout`` seconds to take what is queued.
        """

    def spawn(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run a task that ends with the transport."""

    def reschedule(self) -> None:
        """The session's ``deadline`` has moved nearer."""
