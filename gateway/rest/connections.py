"""Connections: who is connected, sending to one, closing one."""

from __future__ import annotations

from typing import Any

from quart import Blueprint, Response

from gateway.auth.identity import Identity
from gateway.rest.connection_models import (
    ConnectionInfo,
    ConnectionPage,
    ConnectionQuery,
    Disconnect,
    Disconnected,
)
from gateway.rest.event_models import Send, SendToUsers, SentTo, SentToUsers, UserPlace
from gateway.rest.http import (
    caller,
    count_users,
    named,
    page,
    read_body,
    read_cursor,
    read_query,
    reply,
)
from gateway.rest.models import OrganisationQuery
from gateway.rest.openapi import operation
from gateway.rest.services import services

__all__ = ["blueprint", "sent_to_users"]

blueprint = Blueprint("connections", __name__)


@blueprint.get("/connections")
@operation(tags="connections", query=ConnectionQuery, answer=ConnectionPage)
async def list_connections() -> Response:
    """List the open connections of an organisation, oldest first."""
    identity = await caller()
    query = read_query(ConnectionQuery)
    found, missing = await services().operations.connections.list(
        identity,
        org=query.org,
        user=query.user,
        room=query.room,
        after=read_cursor(query.cursor, tuple[int, str]),
        limit=query.limit + 1,
    )
    connections, cursor = page(
        found, key=lambda each: (each["connected_at"], each["connection"]), limit=query.limit
    )
    answer: dict[str, Any] = {"connections": connections}
    if cursor is not None:
        answer["next"] = cursor
    if missing:
        answer["missing"] = missing
    return reply(answer)


@blueprint.get("/connections/<connection>")
@operation(tags="connections", query=OrganisationQuery, answer=ConnectionInfo, errors=[404])
async def get_connection(connection: str) -> Response:
    """Get the data of one connection."""
    identity = await caller()
    org = read_query(OrganisationQuery).org
    return reply(await services().operations.connections.one(identity, connection, org=org))


@blueprint.post("/connections/<connection>/disconnect")
@operation(tags="connections", body=Disconnect, query=OrganisationQuery, answer=Disconnected, errors=[404])
async def disconnect(connection: str) -> Response:
    """Close one connection.

    Members may close connections of their own user; others need the role service or admin.
    """
    identity = await caller()
    wanted = await read_body(Disconnect, optional=True)
    await services().operations.connections.disconnect(
        identity,
        connection,
        code=wanted.code,
        reason=wanted.reason,
        org=named(wanted.org, read_query(OrganisationQuery).org),
    )
    return reply(Disconnected(connection=connection, code=wanted.code))


@blueprint.post("/connections/<connection>/send")
@operation(tags="events", body=Send, query=OrganisationQuery, answer=SentTo, errors=[404])
async def send_to_connection(connection: str) -> Response:
    """Send an event to one connection.

    Members need the permission `publish` for `connection:<id>`.
    """
    identity = await caller()
    wanted = await read_body(Send)
    sent = await services().operations.events.send(
        identity,
        wanted.event,
        wanted.data,
        connection=connection,
        org=named(wanted.org, read_query(OrganisationQuery).org),
        mid=wanted.mid,
    )
    return reply(SentTo(mid=sent.mid, connections=sent.connections))


@blueprint.post("/users/<name:user>/send")
@operation(tags="events", body=Send, query=OrganisationQuery, answer=SentTo)
async def send_to_user(user: str) -> Response:
    """Send an event to all connections of one user.

    It has a position in the user's order, and is kept for later connections, unless it is `ephemeral`.
    Members need the permission `publish` for `user:<name>`.
    """
    identity = await caller()
    wanted = await read_body(Send)
    sent = await services().operations.events.send(
        identity,
        wanted.event,
        wanted.data,
        user=user,
        org=named(wanted.org, read_query(OrganisationQuery).org),
        mid=wanted.mid,
        ephemeral=wanted.ephemeral,
    )
    return reply(SentTo(*sent))


@blueprint.post("/users/send")
@operation(tags="events", body=SendToUsers, query=OrganisationQuery, answer=SentToUsers)
async def send_to_users() -> Response:
    """Send an event to several users; each gets it in their own order.

    Members need the permission `publish` for each `user:<name>`. Repeated with the same `mid`, it reaches
    each user once.
    """
    identity = await caller()
    wanted = await read_body(SendToUsers)
    org = named(wanted.org, read_query(OrganisationQuery).org)
    return reply(SentToUsers(*await sent_to_users(identity, wanted, wanted.users, org)))


async def sent_to_users(
    identity: Identity, wanted: Send, users: list[str], org: str | None
) -> tuple[str, dict[str, UserPlace]]:
    """Send to ``users``, each of whom counts as a command; returns the message id and their places."""
    sent = await services().operations.events.send_to_users(
        identity,
        wanted.event,
        wanted.data,
        users=users,
        org=org,
        mid=wanted.mid,
        ephemeral=wanted.ephemeral,
    )
    count_users(identity, len(sent))
    return next(iter(sent.values())).mid, {
        user: UserPlace(each.seq, each.epoch) for user, each in sent.items()
    }
