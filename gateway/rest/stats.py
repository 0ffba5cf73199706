"""Statistics of an organisation, or of the node."""

from __future__ import annotations

from quart import Blueprint, Response

from gateway.rest.connection_models import Stats
from gateway.rest.http import caller, read_query, reply
from gateway.rest.models import OrganisationQuery
from gateway.rest.openapi import operation
from gateway.rest.services import services

__all__ = ["blueprint"]

blueprint = Blueprint("stats", __name__)


@blueprint.get("/stats")
@operation(tags="state", query=OrganisationQuery, answer=Stats)
async def get_stats() -> Response:
    """Count connections, rooms, messages and bytes.

    For the caller's organisation, with the members of each room; for an admin who names none, totals with the
    connections of each organisation. The top-level counts are those of this node, those of all nodes are
    under `cluster`. Members see the rooms whose presence they may read.
    """
    identity = await caller()
    org = read_query(OrganisationQuery).org
    everything = identity.is_admin and org is None
    return reply(await services().operations.connections.stats(identity, org=org, everything=everything))
