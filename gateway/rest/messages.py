"""Messages: what became of one, recipient by recipient."""

from __future__ import annotations

from quart import Blueprint, Response

from gateway.rest.event_models import Trace, TraceQuery
from gateway.rest.http import caller, read_query, reply
from gateway.rest.openapi import operation
from gateway.rest.services import services

__all__ = ["blueprint"]

blueprint = Blueprint("messages", __name__)


@blueprint.get("/messages/<name:mid>/trace")
@operation(tags="events", query=TraceQuery, answer=Trace, errors=[404])
async def get_trace(mid: str) -> Response:
    """Get the outcome of a message for each connection that it could have reached (role service or admin).

    With `user`, for the connections of one user, or for the user without one. Messages are traced
    while `trace.messages` is set; the last ones are remembered.
    """
    identity = await caller()
    query = read_query(TraceQuery)
    trace = await services().operations.events.trace(identity, mid, user=query.user, org=query.org)
    return reply(trace)
