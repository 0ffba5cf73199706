"""Tickets that are good on any node: one key each, gone when it is used or its time is over.

Redis holds the ticket's hash, so that who can read Redis cannot come in with what he finds there.
"""

from __future__ import annotations

import hashlib
import secrets

import msgspec

from gateway.auth.identity import Grants, Identity, Permission
from gateway.auth.tickets import OpenTickets
from gateway.auth.tokens import Authenticator
from gateway.broker.redis.client import Client
from gateway.config.settings import AuthSettings
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["SharedTickets"]


class _Saved(msgspec.Struct, array_like=True):
    """An identity."""

    org: str
    user: str | None
    roles: list[str]
    rooms: dict[str, list[str]] | None
    """None for everything: a service."""
    expires: float | None
    jti: str | None
    issued_at: float | None
    family: tuple[str, ...] = ()


class SharedTickets:
    """As ``gateway.auth.tickets.Tickets``, for all nodes; the bounds hold for those issued by this one."""

    def __init__(self, client: Client, settings: AuthSettings, auth: Authenticator) -> None:
        self._client = client
        self._settings = settings
        self._auth = auth
        self._open: OpenTickets[bool] = OpenTickets(settings)
        """Keys of those that were issued here: open, or used on another node and not expired yet."""

    async def issue(self, identity: Identity) -> str:
        """A new ticket: 192 random bits as URL-safe text. Raises OVERLOADED and BROKER_UNAVAILABLE."""
        ticket = secrets.token_urlsafe(24)
        key = self._key(ticket)
        ttl = int(self._settings.ticket_ttl * 1000)
        self._open.add(identity.org, key, True)
        await self._client.call(key, b"SET", key, _pack(identity), b"PX", max(ttl, 1))
        return ticket

    async def redeem(self, ticket: str) -> Identity:
        """Who is behind it, once. Raises UNAUTHENTICATED, what the token deserves, and BROKER_UNAVAILABLE:
        then the ticket may be used up."""
        key = self._key(ticket)
        value = await self._client.call(key, b"GETDEL", key, again=False)
        self._open.take(key)
        if value is None:
            raise ProtocolError(
                ErrorCode.UNAUTHENTICATED, "the ticket is unknown, expired or was used already"
            )
        identity = _unpack(value)
        self._auth.recheck(identity)
        return identity

    def _key(self, ticket: str) -> str:
        return self._client.key("ticket", hashlib.sha256(ticket.encode()).hexdigest())


def _pack(identity: Identity) -> bytes:
    rooms = None
    if identity.grants is not Grants.ALL:
        rooms = {
            pattern: [each.name.lower() for each in Permission if each & bits and each.name]
            for pattern, bits in identity.grants.rules
        }
    return msgspec.json.encode(
        _Saved(
            identity.org,
            identity.user,
            sorted(identity.roles),
            rooms,
            identity.expires,
            identity.jti,
            identity.issued_at,
            identity.family,
        )
    )


def _unpack(value: bytes) -> Identity:
    saved = msgspec.json.decode(value, type=_Saved)
    return Identity(
        org=saved.org,
        user=saved.user,
        roles=frozenset(saved.roles),
        grants=Grants.ALL if saved.rooms is None else Grants.of(saved.rooms),
        expires=saved.expires,
        jti=saved.jti,
        issued_at=saved.issued_at,
        family=saved.family,
    )
