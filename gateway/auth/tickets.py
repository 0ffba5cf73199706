"""Tickets: one-use stand-ins for a token, short-lived enough to go into an address."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable

import trio

from gateway.auth.identity import Identity
from gateway.config.settings import AuthSettings
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["Tickets"]


class Tickets:
    """At most ``max_tickets`` open tickets, each good once within ``ticket_ttl`` seconds.

    ``clock`` gives seconds that never go back. ``check`` may raise ``ProtocolError`` for an
    identity that was good when its ticket was issued and no longer is.
    """

    def __init__(
        self,
        settings: AuthSettings,
        clock: Callable[[], float] = trio.current_time,
        check: Callable[[Identity], None] | None = None,
    ) -> None:
        self._ttl = settings.ticket_ttl
        self._max = settings.max_tickets
        self._clock = clock
        self._check = check
        # All live equally long, so insertion order is the order of expiry.
        # (A plain dict would scan its deleted front again at each expiry.)
        self._open: OrderedDict[str, tuple[float, Identity]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def issue(self, identity: Identity) -> str:
        """A new ticket for ``identity``: 192 random bits as URL-safe text.

        Raises ``ProtocolError`` OVERLOADED, with ``retry_after``, while ``max_tickets`` are open.
        """
        now = self._clock()
        self._drop_expired(now)
        if len(self._open) >= self._max:
            first_free = next(iter(self._open.values()))[0]
            raise ProtocolError(
                ErrorCode.OVERLOADED, "too many tickets are open", retry_after=max(first_free - now, 0.001)
            )
        ticket = secrets.token_urlsafe(24)
        self._open[ticket] = (now + self._ttl, identity)
        return ticket

    def redeem(self, ticket: str) -> Identity:
        """The identity behind ``ticket``, once; raises ``ProtocolError`` 200 when it is unknown, used or
        expired, and what ``check`` raises when the token behind it became invalid."""
        self._drop_expired(self._clock())
        entry = self._open.pop(ticket, None)
        if entry is None:
            raise ProtocolError(
                ErrorCode.UNAUTHENTICATED, "the ticket is unknown, expired or was used already"
            )
        identity = entry[1]
        if self._check is not None:
            self._check(identity)
        return identity

    def _drop_expired(self, now: float) -> None:
        while self._open:
            ticket, (expires, _) = next(iter(self._open.items()))
            if expires > now:
                return
            del self._open[ticket]
