"""Which way to the gateway is tried next: WebSocket, else server-sent events, else long-poll. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from gateway.client.errors import ConnectError, ConnectionRefused

__all__ = ["TRANSPORTS", "Course", "TransportKind"]

_SHORT_LIVES: Final = 3
"""WebSockets in a row that opened and broke at once: then something on the way does not carry them."""
_SLOWER: Final = 2.0
_SLOWEST: Final = 10.0
"""Times the first delay: the longest between two tries to return to WebSocket."""


class TransportKind(StrEnum):
    """How messages come: docs/streams.md."""

    WEBSOCKET = "websocket"
    SSE = "sse"
    POLL = "poll"


TRANSPORTS: Final = tuple(TransportKind)
"""From the best to the one that gets through everywhere."""


class Course:
    """What works here, as far as it is known, and what follows from a failure.

    A refusal with a number comes from the gateway, so something else would be refused as well. Any other
    answer, or none, may come from a proxy that does not let this transport through.
    """

    def __init__(self, kinds: Sequence[TransportKind], retry: float) -> None:
        """``kinds`` are allowed, best first; ``retry`` seconds after a fallback the best is tried again."""
        self._kinds = kinds
        self._retry = retry
        self._wait = retry
        self._short = 0
        self.first = 0
        """Where in ``kinds`` the next attempt begins: at what worked last."""

    def order(self) -> Sequence[TransportKind]:
        """What the next attempt tries, in this order."""
        return [*self._kinds[self.first :], *self._kinds[: self.first]]

    def blocked(self, error: ConnectError) -> bool:
        """Whether ``error`` may be due to the transport, so that the next one is worth trying at once."""
        if isinstance(error, ConnectionRefused):
            return error.code is None
        return error.reached and not error.token

    def works(self, kind: TransportKind) -> None:
        """A connection came about over ``kind``."""
        self.first = self._kinds.index(kind)
        if not self.first:
            self._wait = self._retry

    def ended(self, kind: TransportKind, *, lasted: bool, broken: bool) -> None:
        """A connection over ``kind`` has ended; ``broken``: without a word."""
        if kind is not self._kinds[0]:
            return
        self._short = self._short + 1 if broken and not lasted else 0
        if self._short >= _SHORT_LIVES and len(self._kinds) > 1:
            self._short = 0
            self.first = 1

    def degraded(self, kind: TransportKind) -> bool:
        """Whether something better than ``kind`` is allowed."""
        return kind is not self._kinds[0]

    @property
    def best(self) -> TransportKind:
        """What to return to."""
        return self._kinds[0]

    def wait(self) -> float:
        """Seconds until the best is tried again; longer every time."""
        wait = self._wait
        self._wait = min(self._wait * _SLOWER, self._retry * _SLOWEST)
        return wait
