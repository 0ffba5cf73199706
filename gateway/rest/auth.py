"""Tokens: issue, refresh, ticket, revoke."""

from __future__ import annotations

from typing import Annotated

import msgspec
from quart import Blueprint, Response

from gateway.auth.tokens import MAX_ROLE, MAX_ROLES, IssuedToken
from gateway.rest.http import caller, named, read_body, read_query, reply
from gateway.rest.models import Body, Lifetime, Milliseconds, Org, OrganisationQuery, Permissions
from gateway.rest.openapi import operation
from gateway.rest.services import services

__all__ = ["blueprint"]

blueprint = Blueprint("auth", __name__)


class TokenRequest(Body):
    """Who the new token is for."""

    org: Org | None = None
    user: str | None = None
    roles: Annotated[
        list[Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ROLE)]],
        msgspec.Meta(
            max_length=MAX_ROLES,
            description="`member`, `service`, `admin`, and the application's own, which grant nothing:"
            " approvals and the setting `roles` of `calls` ask for them.",
        ),
    ] = msgspec.field(default_factory=list)
    rooms: (
        Annotated[
            Permissions,
            msgspec.Meta(description="Room pattern → permissions; absent means the gateway's default."),
        ]
        | None
    ) = None
    ttl: Lifetime | None = None


class Refresh(Body):
    """How long the new token is to live."""

    ttl: Lifetime | None = None


class Token(msgspec.Struct):
    """A signed token."""

    token: str
    jti: str
    expires: Milliseconds


class Ticket(msgspec.Struct):
    """A ticket for `/ws?ticket=…`, good once."""

    ticket: str
    expires_in: Annotated[float, msgspec.Meta(description="Seconds.")]


class Revoke(Body):
    """What to revoke: one of `jti`, `user` and `org`; `user` and `jti` may come with `org`."""

    jti: str | None = None
    user: str | None = None
    org: Org | None = None


class ClosedConnections(msgspec.Struct):
    """What was done."""

    closed: Annotated[
        int, msgspec.Meta(description="Open connections that were closed, on all nodes that answered.")
    ]


@blueprint.post("/auth/token")
@operation(tags="tokens", body=TokenRequest, query=OrganisationQuery, answer=Token, errors=[422])
async def issue_token() -> Response:
    """Issue a token (role service or admin).

    A service issues tokens of its own organisation and cannot make admins. Roles of the application's own,
    such as `lead`, are for approvals and calls.
    """
    identity = await caller()
    wanted = await read_body(TokenRequest, optional=True)
    issued = services().operations.tokens.issue(
        identity,
        org=named(wanted.org, read_query(OrganisationQuery).org),
        user=wanted.user,
        roles=wanted.roles,
        rooms=wanted.rooms,
        ttl=wanted.ttl,
    )
    return reply(_token(issued))


@blueprint.post("/auth/refresh")
@operation(tags="tokens", body=Refresh, answer=Token, errors=[422])
async def refresh_token() -> Response:
    """Get a new token with the same claims and a later expiry.

    Its lifetime is at most that of the old one, and it is revoked with it. The old one stays valid until
    it expires. On an open connection send the new token with `refresh`.
    """
    identity = await caller()
    wanted = await read_body(Refresh, optional=True)
    issued = services().operations.tokens.refresh(identity, ttl=wanted.ttl)
    return reply(_token(issued))


@blueprint.post("/auth/ticket")
@operation(tags="tokens", answer=Ticket)
async def issue_ticket() -> Response:
    """Get a ticket that replaces the token once, for a short time.

    For addresses (`/ws?ticket=…`), which proxies and browsers keep in logs.
    """
    ticket = await services().operations.tokens.ticket(await caller())
    return reply(Ticket(ticket=ticket, expires_in=services().settings.auth.ticket_ttl))


@blueprint.post("/auth/revoke")
@operation(tags="tokens", body=Revoke, query=OrganisationQuery, answer=ClosedConnections)
async def revoke_tokens() -> Response:
    """Revoke one token, or all that were issued until now to a user or an organisation.

    Open connections that use such a token are closed with 1008. Members may revoke their
    own tokens; others need the role service or admin.
    """
    identity = await caller()
    wanted = await read_body(Revoke, optional=True)
    org = named(wanted.org, read_query(OrganisationQuery).org)
    closed = await services().operations.tokens.revoke(
        identity, jti=wanted.jti, user=wanted.user, whole_organisation=wanted.org is not None, org=org
    )
    return reply(ClosedConnections(closed=closed))


def _token(issued: IssuedToken) -> Token:
    return Token(token=issued.token, jti=issued.jti, expires=issued.expires * 1000)
