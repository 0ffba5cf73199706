"""Tickets: one-use stand-ins for a token, short-lived enough to go into an address."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from gateway.auth.clock import running_time
from gateway.auth.identity import Identity
from gateway.config.settings import AuthSettings
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["OpenTickets", "Tickets"]

V = TypeVar("V")

_SHARES: Final = 10
"""Organisations' ``max_tickets`` that a node holds for all organisations together."""


class OpenTickets(Generic[V]):
    """Open tickets and what belongs to each: ``max_tickets`` of one organisation, ten times that of all.

    Each is open for ``ticket_ttl`` seconds. ``clock`` gives seconds that never go back.
    """

    def __init__(self, settings: AuthSettings, clock: Callable[[], float] = running_time) -> None:
        self._ttl = settings.ticket_ttl
        self._max = settings.max_tickets
        self._clock = clock
        # All live equally long, so insertion order is the order of expiry.
        # (A plain dict would scan its deleted front again at each expiry.)
        self._open: OrderedDict[str, tuple[float, str, V]] = OrderedDict()
        self._of: dict[str, OrderedDict[str, float]] = {}
        """Organisation → its tickets and when they expire, in the same order."""

    def __len__(self) -> int:
        return len(self._open)

    def add(self, org: str, ticket: str, value: V) -> None:
        """Raises ``ProtocolError`` OVERLOADED, with ``retry_after``, while too many are open."""
        now = self._clock()
        self._drop_expired(now)
        mine: dict[str, float] = self._of.get(org, {})
        if len(mine) >= self._max:
            first_free = next(iter(mine.values()))
        elif len(self._open) >= self._max * _SHARES:
            first_free = next(iter(self._open.values()))[0]
        else:
            expires = now + self._ttl
            self._open[ticket] = (expires, org, value)
            self._of.setdefault(org, OrderedDict())[ticket] = expires
            return
        raise ProtocolError(
            ErrorCode.OVERLOADED, "too many tickets are open", retry_after=max(first_free - now, 0.001)
        )

    def take(self, ticket: str) -> V | None:
        """What belongs to a ticket, which is then no longer open; None when it is not."""
        self._drop_expired(self._clock())
        return self._drop(ticket) if ticket in self._open else None

    def _drop(self, ticket: str) -> V:
        _, org, value = self._open.pop(ticket)
        mine = self._of[org]
        del mine[ticket]
        if not mine:
            del self._of[org]
        return value

    def _drop_expired(self, now: float) -> None:
        while self._open:
            ticket, (expires, _, _) = next(iter(self._open.items()))
            if expires > now:
                return
            self._drop(ticket)


class Tickets:
    """Tickets of this node, each good once; bounded as :class:`OpenTickets`.

    ``check`` may raise ``ProtocolError`` for an identity that was good when its ticket was issued and no
    longer is.
    """

    def __init__(
        self,
        settings: AuthSettings,
        clock: Callable[[], float] = running_time,
        check: Callable[[Identity], None] | None = None,
    ) -> None:
        self._open: OpenTickets[Identity] = OpenTickets(settings, clock)
        self._check = check

    def __len__(self) -> int:
        return len(self._open)

    def issue(self, identity: Identity) -> str:
        """A new ticket for ``identity``: 192 random bits as URL-safe text.

        Raises ``ProtocolError`` OVERLOADED, with ``retry_after``, while too many are open.
        """
        ticket = secrets.token_urlsafe(24)
        self._open.add(identity.org, ticket, identity)
        return ticket

    def redeem(self, ticket: str) -> Identity:
        """The identity behind ``ticket``, once; raises ``ProtocolError`` 200 when it is unknown, used or
        expired, and what ``check`` raises when the token behind it became invalid."""
        identity = self._open.take(ticket)
        if identity is None:
            raise ProtocolError(
                ErrorCode.UNAUTHENTICATED, "the ticket is unknown, expired or was used already"
            )
        if self._check is not None:
            self._check(identity)
        return identity
