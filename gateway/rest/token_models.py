"""The bodies of requests and answers about tokens and tickets."""

from __future__ import annotations

from typing import Annotated

import msgspec

from gateway.auth.tokens import MAX_ROLE, MAX_ROLES
from gateway.rest.models import Body, Lifetime, Milliseconds, Org, Permissions

__all__ = [
    "ClosedConnections",
    "Refresh",
    "Revoke",
    "Ticket",
    "Token",
    "TokenRequest",
]


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
