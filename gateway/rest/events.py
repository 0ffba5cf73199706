"""Events: broadcast to a room or an organisation, and many operations in one request."""

from __future__ import annotations

from quart import Blueprint, Response

from gateway.auth.identity import Identity, Permission
from gateway.problems import problem_for
from gateway.rest.connections import send_to
from gateway.rest.http import admit, caller, organisation, read_body, read_query, reply, require_permission
from gateway.rest.models import (
    Batch,
    BatchResults,
    Broadcast,
    BroadcastOperation,
    OperationResult,
    OrganisationQuery,
    Problem,
    Published,
    SendOperation,
)
from gateway.rest.openapi import operation
from gateway.rest.services import services
from protocol.errors import ErrorCode, ProtocolError
from protocol.names import check_room
from protocol.values import check_event_data

__all__ = ["blueprint"]

blueprint = Blueprint("events", __name__)


async def _broadcast(identity: Identity, wanted: Broadcast, org: str) -> Published:
    if wanted.room is not None:
        check_room(wanted.room)
        require_permission(identity, wanted.room, Permission.PUBLISH)
    elif not identity.is_service:
        raise ProtocolError(
            ErrorCode.FORBIDDEN, "without a room this goes to everyone, which needs the role service or admin"
        )
    if wanted.critical and not identity.is_service:
        raise ProtocolError(ErrorCode.FORBIDDEN, "only services may mark an event as critical")
    if not wanted.critical:
        services().guard.overload.refuse_publish()
    data = check_event_data(wanted.data)
    position = await services().hub.publish(
        org,
        wanted.room,
        wanted.event,
        data,
        sender=identity.user,
        mid=wanted.mid,
        exclude=frozenset(wanted.exclude) or None,
        critical=wanted.critical,
    )
    return Published(mid=position.mid, seq=position.seq, epoch=position.epoch)


@blueprint.post("/broadcast")
@operation(tags="events", body=Broadcast, query=OrganisationQuery, answer=Published)
async def broadcast() -> Response:
    """Publish an event to a room, or without `room` to the whole organisation.

    The answer means that the event has its place in the order. Members need the permission `publish` in
    the room; the whole organisation, and `critical`, are for the roles service and admin.
    """
    identity = await caller()
    wanted = await read_body(Broadcast)
    org = organisation(identity, wanted.org, read_query(OrganisationQuery).org)
    return reply(await _broadcast(identity, wanted, org))


@blueprint.post("/batch")
@operation(tags="events", body=Batch, query=OrganisationQuery, answer=BatchResults)
async def batch() -> Response:
    """Do many broadcasts and sends, in order.

    One that fails does not stop the others: each has its own result. When the body itself is wrong, nothing
    is done.
    """
    identity = await caller()
    wanted = await read_body(Batch)
    org = organisation(identity, read_query(OrganisationQuery).org)
    limit = services().settings.limits.batch
    if len(wanted.operations) > limit:
        raise ProtocolError(ErrorCode.TOO_LARGE, f"operations: at most {limit}")
    results = [await _operate(identity, each, org) for each in wanted.operations]
    return reply(BatchResults(results))


async def _operate(
    identity: Identity, wanted: BroadcastOperation | SendOperation, org: str
) -> OperationResult:
    try:
        admit(identity, 0)
        org = organisation(identity, wanted.org) if wanted.org is not None else org
        if isinstance(wanted, BroadcastOperation):
            published = await _broadcast(identity, wanted, org)
            return OperationResult(200, mid=published.mid, seq=published.seq, epoch=published.epoch)
        if (wanted.user is None) == (wanted.connection is None):
            raise ProtocolError(ErrorCode.MISSING_FIELD, "give either user or connection")
        sent = await send_to(identity, wanted, org, user=wanted.user, connection=wanted.connection)
        return OperationResult(200, mid=sent.mid, connections=sent.connections)
    except ProtocolError as error:
        problem = Problem(**problem_for(error))
        return OperationResult(problem.status, problem=problem)
