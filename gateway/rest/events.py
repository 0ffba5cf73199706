"""Events: broadcast to a room or an organisation, and many operations in one request."""

from __future__ import annotations

import msgspec
from quart import Blueprint, Response

from gateway.auth.identity import Identity
from gateway.problems import problem_for
from gateway.rest.connections import sent_to_users
from gateway.rest.event_models import (
    Batch,
    BatchResults,
    Broadcast,
    BroadcastOperation,
    Emit,
    OperationResult,
    Published,
    SendOperation,
)
from gateway.rest.http import admit, caller, named, read_body, read_query, reply
from gateway.rest.models import OrganisationQuery, Problem
from gateway.rest.openapi import operation
from gateway.rest.services import services
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["blueprint"]

blueprint = Blueprint("events", __name__)


async def _broadcast(identity: Identity, wanted: Broadcast, org: str | None) -> Published:
    position = await services().operations.events.publish(
        identity,
        wanted.room,
        wanted.event,
        wanted.data,
        org=org,
        mid=wanted.mid,
        exclude=wanted.exclude,
        critical=wanted.critical,
    )
    return Published(mid=position.mid, seq=position.seq, epoch=position.epoch)


@blueprint.post("/broadcast")
@operation(tags="events", body=Broadcast, query=OrganisationQuery, answer=Published, errors=[422])
async def broadcast() -> Response:
    """Publish an event to a room, or without `room` to the whole organisation.

    The answer means that the event has its position in the order. Members need the permission `publish` in
    the room; the whole organisation, and `critical`, are for the roles service and admin.
    """
    identity = await caller()
    wanted = await read_body(Broadcast)
    org = named(wanted.org, read_query(OrganisationQuery).org)
    return reply(await _broadcast(identity, wanted, org))


@blueprint.post("/events")
@operation(tags="events", body=Emit, query=OrganisationQuery, answer=Published, errors=[404, 422])
async def emit() -> Response:
    """Publish a typed event: one of the catalogue, or of a registered type.

    `data` is checked against the type, `ts` is filled in, and without `room` it goes to the room of its type.
    A name without a type gets 404 with 109: use `/broadcast`.
    """
    identity = await caller()
    wanted = await read_body(Emit)
    made = services().operations.types.emission(wanted.event, wanted.data, room=wanted.room)
    org = named(wanted.org, read_query(OrganisationQuery).org)
    event = msgspec.structs.replace(wanted, room=made.room, data=made.data)
    return reply(await _broadcast(identity, event, org))


@blueprint.post("/batch")
@operation(tags="events", body=Batch, query=OrganisationQuery, answer=BatchResults)
async def batch() -> Response:
    """Carry out many broadcasts and sends, in order.

    A failed operation does not stop the others: each has its own result. If the body is malformed, nothing
    is done.
    """
    identity = await caller()
    wanted = await read_body(Batch)
    org = read_query(OrganisationQuery).org
    limit = services().settings.limits.batch
    if len(wanted.operations) > limit:
        raise ProtocolError(ErrorCode.TOO_LARGE, f"operations: at most {limit}")
    results = [await _operate(identity, each, org) for each in wanted.operations]
    return reply(BatchResults(results))


async def _operate(
    identity: Identity, wanted: BroadcastOperation | SendOperation, org: str | None
) -> OperationResult:
    try:
        admit(identity, 0)
        org = org if wanted.org is None else wanted.org
        if isinstance(wanted, BroadcastOperation):
            published = await _broadcast(identity, wanted, org)
            return OperationResult(200, mid=published.mid, seq=published.seq, epoch=published.epoch)
        if wanted.users is not None:
            if wanted.user is not None or wanted.connection is not None:
                raise ProtocolError(ErrorCode.BAD_FIELD, "users: not with user or connection")
            mid, places = await sent_to_users(identity, wanted, wanted.users, org)
            return OperationResult(200, mid=mid, users=places)
        sent = await services().operations.events.send(
            identity,
            wanted.event,
            wanted.data,
            user=wanted.user,
            connection=wanted.connection,
            org=org,
            mid=wanted.mid,
            ephemeral=wanted.ephemeral,
        )
        return OperationResult(
            200, mid=sent.mid, connections=sent.connections, seq=sent.seq, epoch=sent.epoch
        )
    except ProtocolError as error:
        problem = Problem(**problem_for(error))
        return OperationResult(problem.status, problem=problem)
