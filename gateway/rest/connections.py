"""Connections: who is connected, sending to one, closing one."""

from __future__ import annotations

from typing import Any

from quart import Blueprint, Response

from gateway.auth.identity import Identity
from gateway.rest.http import (
    caller,
    organisation,
    page,
    read_body,
    read_cursor,
    read_query,
    reply,
    require_service,
)
from gateway.rest.models import (
    ConnectionInfo,
    ConnectionPage,
    ConnectionQuery,
    Disconnect,
    Disconnected,
    OrganisationQuery,
    Send,
    SentTo,
)
from gateway.rest.openapi import operation
from gateway.rest.services import services
from protocol.errors import ErrorCode, ProtocolError
from protocol.names import check_mid
from protocol.values import check_value

__all__ = ["blueprint", "send_to"]

blueprint = Blueprint("connections", __name__)

_PRIVATE = ("ip", "user_agent", "client_id")
_MAX_REASON = 100


def _shown(known: dict[str, Any], identity: Identity) -> dict[str, Any]:
    """What of a connection the caller may see."""
    if not (identity.is_service or _is_own(known, identity)):
        for name in _PRIVATE:
            known.pop(name, None)
    return known


def _is_own(known: dict[str, Any], identity: Identity) -> bool:
    return identity.user is not None and known.get("user") == identity.user and known["org"] == identity.org


@blueprint.get("/connections")
@operation(tags="connections", query=ConnectionQuery, answer=ConnectionPage)
async def list_connections() -> Response:
    """List the open connections of an organisation, the oldest first."""
    identity = await caller()
    query = read_query(ConnectionQuery)
    found, missing = await services().cluster.connections(
        organisation(identity, query.org),
        user=query.user,
        room=query.room,
        after=read_cursor(query.cursor, tuple[int, str]),
        limit=query.limit + 1,
    )
    connections, cursor = page(
        found, key=lambda each: (each["connected_at"], each["connection"]), limit=query.limit
    )
    answer: dict[str, Any] = {"connections": [_shown(each, identity) for each in connections]}
    if cursor is not None:
        answer["next"] = cursor
    if missing:
        answer["missing"] = missing
    return reply(answer)


@blueprint.get("/connections/<connection>")
@operation(tags="connections", query=OrganisationQuery, answer=ConnectionInfo, errors=[404])
async def get_connection(connection: str) -> Response:
    """Tell what is known of one connection."""
    identity = await caller()
    org = organisation(identity, read_query(OrganisationQuery).org)
    return reply(_shown(await services().cluster.connection(org, connection), identity))


@blueprint.post("/connections/<connection>/disconnect")
@operation(tags="connections", body=Disconnect, query=OrganisationQuery, answer=Disconnected, errors=[404])
async def disconnect(connection: str) -> Response:
    """Close one connection.

    Members may close their own user's; others need the role service or admin.
    """
    identity = await caller()
    wanted = await read_body(Disconnect, optional=True)
    org = organisation(identity, wanted.org, read_query(OrganisationQuery).org)
    if len(wanted.reason.encode()) > _MAX_REASON:
        raise ProtocolError(ErrorCode.BAD_FIELD, f"reason: must not be longer than {_MAX_REASON} bytes")
    only_of = None
    if not identity.is_service:
        if identity.user is None:
            require_service(identity)
        only_of = identity.user
    await services().cluster.disconnect(org, connection, wanted.code, wanted.reason, only_of=only_of)
    return reply(Disconnected(connection=connection, code=wanted.code))


async def send_to(
    identity: Identity, wanted: Send, org: str, *, user: str | None = None, connection: str | None = None
) -> SentTo:
    """Send to one user or one connection, when the caller may.

    Directed sends are permitted by patterns as rooms are, under ``user:NAME`` and ``connection:ID``.
    """
    if wanted.mid is not None:
        check_mid(wanted.mid)
    data = check_value(wanted.data)
    name = f"user:{user}" if user is not None else f"connection:{connection}"
    if not identity.grants.allows_target(name):
        raise ProtocolError(ErrorCode.FORBIDDEN, f"this token does not permit to send to {name!r}")
    sent = await services().cluster.send(
        org,
        wanted.event,
        data,
        user=user,
        connection=connection,
        sender=identity.user,
        mid=wanted.mid,
    )
    return SentTo(mid=sent.mid, connections=sent.connections)


@blueprint.post("/connections/<connection>/send")
@operation(tags="events", body=Send, query=OrganisationQuery, answer=SentTo, errors=[404])
async def send_to_connection(connection: str) -> Response:
    """Send an event to one connection.

    Members need the permission `publish` for `connection:<id>`.
    """
    identity = await caller()
    wanted = await read_body(Send)
    org = organisation(identity, wanted.org, read_query(OrganisationQuery).org)
    return reply(await send_to(identity, wanted, org, connection=connection))


@blueprint.post("/users/<name:user>/send")
@operation(tags="events", body=Send, query=OrganisationQuery, answer=SentTo)
async def send_to_user(user: str) -> Response:
    """Send an event to all connections of one user.

    Members need the permission `publish` for `user:<name>`.
    """
    identity = await caller()
    wanted = await read_body(Send)
    org = organisation(identity, wanted.org, read_query(OrganisationQuery).org)
    if not user:
        raise ProtocolError(ErrorCode.BAD_FIELD, "user: must not be empty")
    return reply(await send_to(identity, wanted, org, user=user))
