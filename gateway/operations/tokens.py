"""Tokens: issue, refresh, revoke, and the tickets that stand for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import trio

from gateway.auth.identity import Identity
from gateway.auth.tokens import Authenticator, IssuedToken
from gateway.cluster.base import Cluster
from gateway.config.settings import AuthSettings
from gateway.operations.rules import organisation, require_service
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["Tokens"]


class Tokens:
    """What callers may do with tokens, their own and others'."""

    __slots__ = ("_auth", "_cluster", "_settings")

    def __init__(self, auth: Authenticator, cluster: Cluster, settings: AuthSettings) -> None:
        self._auth = auth
        self._cluster = cluster
        self._settings = settings

    def issue(
        self,
        identity: Identity,
        *,
        org: str | None = None,
        user: str | None = None,
        roles: Sequence[str] = (),
        rooms: Mapping[str, Sequence[str]] | None = None,
        ttl: float | None = None,
    ) -> IssuedToken:
        """A new token that lives ``ttl`` seconds; takes the role service, and admin to make an admin.

        Raises FORBIDDEN, WRONG_ORGANISATION, BAD_FIELD, and CALL_REJECTED when this gateway has no key to
        sign with.
        """
        require_service(identity)
        org = organisation(identity, org)
        if "admin" in roles and not identity.is_admin:
            raise ProtocolError(ErrorCode.FORBIDDEN, "only an admin may issue a token with the role admin")
        return self._auth.issue(org=org, user=user, roles=roles, rooms=rooms, ttl=ttl)

    def refresh(self, identity: Identity, *, ttl: float | None = None) -> IssuedToken:
        """A token with the same claims that expires ``ttl`` seconds from now; the old one stays good.

        It lives no longer than the first one was issued for, and is revoked with it.
        """
        return self._auth.refresh(identity, ttl=ttl)

    async def ticket(self, identity: Identity) -> str:
        """A ticket that stands for the caller's token once, for ``auth.ticket_ttl`` seconds; raises
        OVERLOADED."""
        return await self._cluster.issue_ticket(identity)

    async def revoke(
        self,
        identity: Identity,
        *,
        jti: str | None = None,
        user: str | None = None,
        whole_organisation: bool = False,
        org: str | None = None,
    ) -> int:
        """Refuse one token, or all that were issued until now to a user or to the organisation.

        Open connections that came with such a token are closed with 1008; returns how many. Members may
        revoke their own tokens; others need the role service. Raises FORBIDDEN,
        MISSING_FIELD when nothing is named, OVERLOADED.
        """
        org = organisation(identity, org)
        if jti is None and user is None and not whole_organisation:
            raise ProtocolError(ErrorCode.MISSING_FIELD, "jti, user or org: one of them must be given")
        own_jti = jti is not None and jti == identity.jti
        own_user = jti is None and user is not None and user == identity.user
        if not (own_jti or own_user):
            require_service(identity)
        at = self._auth.revocations.cutoff(org)
        closed = await self._cluster.revoke(org, jti=jti, user=user)
        if jti is None:  # whoever signs a token once this is answered may be sure that it is good
            await trio.sleep(self._auth.revocations.settled(org, at))
        return closed
