"""Messages: what became of one, recipient by recipient."""

from __future__ import annotations

from quart import Blueprint, Response

from gateway.rest.http import caller, organisation, read_query, reply, require_service
from gateway.rest.models import Trace, TraceQuery
from gateway.rest.openapi import operation
from gateway.rest.services import services
from protocol.errors import ErrorCode, ProtocolError
from protocol.names import check_mid

__all__ = ["blueprint"]

blueprint = Blueprint("messages", __name__)


@blueprint.get("/messages/<name:mid>/trace")
@operation(tags="events", query=TraceQuery, answer=Trace, errors=[404])
async def get_trace(mid: str) -> Response:
    """Tell what became of a message, for each connection that it could have reached (role service or admin).

    With `user`, for the connections of one user; when there are none, for the user. Messages are traced
    while `trace.messages` is set; the last ones are remembered.
    """
    identity = await caller()
    require_service(identity)
    query = read_query(TraceQuery)
    org = organisation(identity, query.org)
    check_mid(mid)
    found = services()
    if found.hub.tracer is None:
        raise ProtocolError(ErrorCode.NOT_FOUND, "messages are not traced here: trace.messages is 0")
    trace = await found.cluster.trace(org, mid, user=query.user)
    if trace is None:
        raise ProtocolError(ErrorCode.NOT_FOUND, "this message was not traced, or is no longer remembered")
    return reply({"node": found.node, **trace})
