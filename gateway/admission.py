"""Who is asking: credentials are verified, counted and checked in here, whichever way they came.

Used by the WebSocket upgrade, the ``auth`` and ``refresh`` messages, and every REST request.
"""

from __future__ import annotations

import math

import trio

from gateway.auth.identity import Identity
from gateway.auth.tokens import Authenticator
from gateway.cluster.base import Cluster
from gateway.hub.hub import Hub
from gateway.limits.guard import Guard
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["Admission"]


class Admission:
    """The way in to one node. Every refusal is a ``ProtocolError`` whose text is the same on every way."""

    __slots__ = ("_auth", "_cluster", "_guard", "_hub", "in_band")

    def __init__(
        self, auth: Authenticator, cluster: Cluster, guard: Guard, hub: Hub, *, in_band: bool
    ) -> None:
        """With ``in_band`` a WebSocket may show its token after the upgrade."""
        self._auth = auth
        self._cluster = cluster
        self._guard = guard
        self._hub = hub
        self.in_band = in_band

    def address(self, peer: str, forwarded_for: str) -> str:
        """The client's address, from that of the ``peer`` and the header ``X-Forwarded-For``."""
        return self._guard.addresses.client(peer, forwarded_for)

    async def connecting(
        self, ip: str, authorization: str, *, ticket: str | None, token: str | None
    ) -> Identity | None:
        """A client at ``ip`` wants to connect; None when it will show its token after the upgrade.

        Raises 300, 301 and 402 for what its address may not, and what :meth:`identify` raises.
        """
        self._guard.knock(ip, trio.current_time())
        if self.in_band and not authorization and ticket is None and token is None:
            return None
        return await self.identify(ip, authorization, ticket=ticket, token=token)

    async def requesting(
        self, ip: str, authorization: str, *, ticket: str | None = None, token: str | None = None
    ) -> Identity:
        """A request without a connection; the caller counts it with :meth:`count` once it knows its size.

        Raises 300 while the address is refused, and what :meth:`identify` raises.
        """
        self._guard.check_address(ip, trio.current_time())
        return await self.identify(ip, authorization, ticket=ticket, token=token)

    async def identify(
        self, ip: str, authorization: str = "", *, ticket: str | None = None, token: str | None = None
    ) -> Identity:
        """Who shows these credentials: the header ``Authorization``, else a ticket, else a token.

        A failure counts for the address ``ip``. Raises UNAUTHENTICATED, TOKEN_EXPIRED, TOKEN_REVOKED, and 3xx
        while keys or tickets cannot be looked up.
        """
        try:
            return await self._verify(authorization, ticket, token)
        except ProtocolError as error:
            self._guard.login_refused(error, ip, trio.current_time())
            raise

    async def _verify(self, authorization: str, ticket: str | None, token: str | None) -> Identity:
        if authorization:
            scheme, _, credentials = authorization.partition(" ")
            if scheme.lower() != "bearer":
                raise ProtocolError(
                    ErrorCode.UNAUTHENTICATED, "the Authorization header must be: Bearer <token>"
                )
            return await self._auth.verify(credentials.strip())
        if ticket is not None:
            return await self._cluster.redeem_ticket(ticket)
        if token is not None:
            return await self._auth.verify(token)
        raise ProtocolError(
            ErrorCode.UNAUTHENTICATED,
            "no token: send Authorization: Bearer <token>; not for REST: ?token= or ?ticket=",
        )

    async def renew(self, present: Identity, ip: str, token: str) -> Identity:
        """Who shows ``token`` on a connection that is ``present``'s.

        Raises what :meth:`identify` raises, WRONG_ORGANISATION for another organisation or user, and
        BAD_FIELD for a token that expires earlier than the present one.
        """
        identity = await self.identify(ip, token=token)
        if identity.org != present.org or identity.user != present.user:
            raise ProtocolError(
                ErrorCode.WRONG_ORGANISATION, "this token is for another organisation or another user"
            )
        if identity.expires is not None and identity.expires < (present.expires or math.inf):
            raise ProtocolError(ErrorCode.BAD_FIELD, "data.token: expires before the present token")
        return identity

    def count(self, identity: Identity, ip: str, size: int) -> None:
        """Count one command of ``size`` bytes that comes without a connection; raises RATE_LIMITED."""
        self._guard.request(identity, ip, size, trio.current_time())

    def count_users(self, identity: Identity, ip: str, number: int) -> None:
        """A command that was counted went to ``number`` users: each counts as a command."""
        self._guard.reached(identity, ip, number - 1, trio.current_time())

    def check_in(self, identity: Identity, ip: str) -> None:
        """A connection is about to be ``identity``'s; raises 300 or 402 when there are too many."""
        organisation = self._hub.organisations.get(identity.org)
        user = None if organisation is None else organisation.users.get(identity.user or "")
        self._guard.identify(
            identity,
            ip,
            trio.current_time(),
            of_user=0 if user is None else user.size,
            of_org=0 if organisation is None else len(organisation.connections),
        )
