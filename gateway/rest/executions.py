"""Executions: reported by services; looked up, one by one, as a list and summed up over days."""

from __future__ import annotations

import msgspec
from quart import Blueprint, Response

from gateway.rest.execution_models import (
    Execution,
    ExecutionConflict,
    ExecutionCreation,
    ExecutionDetails,
    ExecutionFilter,
    ExecutionPage,
    ExecutionPatch,
    ExecutionQuery,
    ExecutionSummary,
)
from gateway.rest.http import caller, named, read_body, read_query, reply
from gateway.rest.models import OrganisationQuery
from gateway.rest.openapi import operation
from gateway.rest.services import services

__all__ = ["blueprint"]

blueprint = Blueprint("executions", __name__)


@blueprint.post("/executions")
@operation(
    tags="executions",
    body=ExecutionCreation,
    query=OrganisationQuery,
    answer=Execution,
    status=201,
    errors=[404],
    conflict=ExecutionConflict,
)
async def create_execution() -> Response:
    """Report an execution that begins or waits (role service or admin).

    The answer means that it is stored; `execution:updated` follows in the rooms `execution:{id}` and
    `executions`.
    """
    identity = await caller()
    wanted = await read_body(ExecutionCreation)
    row = await services().operations.executions.create(
        identity,
        id=wanted.id,
        agent=wanted.agent,
        team=wanted.team,
        method=wanted.method,
        status=wanted.status,
        input=wanted.input,
        metadata=wanted.metadata,
        org=named(wanted.org, read_query(OrganisationQuery).org),
    )
    return reply(row, 201)


@blueprint.patch("/executions/<id>")
@operation(
    tags="executions",
    body=ExecutionPatch,
    query=OrganisationQuery,
    answer=Execution,
    errors=[404],
    conflict=ExecutionConflict,
)
async def update_execution(id: str) -> Response:
    """Report changes (role service or admin); the answer is the changed execution.

    A transition that is not allowed, and a `version` that is not the latest, get 409 with the
    present execution. `execution:updated` follows as after creating.
    """
    identity = await caller()
    wanted = await read_body(ExecutionPatch)
    changes = msgspec.structs.asdict(wanted)
    del changes["org"]
    row = await services().operations.executions.update(
        identity, id, org=named(wanted.org, read_query(OrganisationQuery).org), **changes
    )
    return reply(row)


@blueprint.get("/executions")
@operation(tags="executions", query=ExecutionQuery, answer=ExecutionPage, errors=[404])
async def list_executions() -> Response:
    """List executions, newest first; needs the permission to join the room `executions`."""
    identity = await caller()
    query = read_query(ExecutionQuery)
    return reply(await services().operations.executions.list(identity, **msgspec.structs.asdict(query)))


@blueprint.get("/executions/summary")
@operation(tags="executions", query=ExecutionFilter, answer=ExecutionSummary, errors=[404])
async def sum_up_executions() -> Response:
    """Summarise executions by UTC days; needs the permission to join the room `executions`."""
    identity = await caller()
    query = read_query(ExecutionFilter)
    return reply(await services().operations.executions.summary(identity, **msgspec.structs.asdict(query)))


@blueprint.get("/executions/<id>")
@operation(tags="executions", query=OrganisationQuery, answer=ExecutionDetails, errors=[404])
async def get_execution(id: str) -> Response:
    """Get one execution with its updates; needs the permission to join `execution:{id}` or `executions`."""
    identity = await caller()
    query = read_query(OrganisationQuery)
    return reply(await services().operations.executions.get(identity, id, org=query.org))
