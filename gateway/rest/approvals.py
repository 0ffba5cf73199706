"""Approvals: asked for by services, listed and decided by those who are asked."""

from __future__ import annotations

from quart import Blueprint, Response

from gateway.operations.approvals import CHOICES, MAX_WAIT
from gateway.rest.approval_models import (
    Approval,
    ApprovalConflict,
    ApprovalCreation,
    ApprovalDecision,
    ApprovalOwner,
    ApprovalPage,
    ApprovalQuery,
    WaitQuery,
)
from gateway.rest.http import caller, named, peer_address, read_body, read_query, reply
from gateway.rest.models import OrganisationQuery
from gateway.rest.openapi import operation
from gateway.rest.services import services

__all__ = ["blueprint"]

blueprint = Blueprint("approvals", __name__)


@blueprint.post("/approvals")
@operation(
    tags="approvals",
    body=ApprovalCreation,
    query=OrganisationQuery,
    answer=Approval,
    status=201,
    errors=[404],
)
async def create_approval() -> Response:
    """Ask users, or a role, for an approval (role service or admin).

    The answer means that it is stored; the asked users get `permission:pending` and an item in the inbox. The
    same `id` in the organisation answers with the first one in its present state.
    """
    identity = await caller()
    wanted = await read_body(ApprovalCreation)
    approval = await services().operations.approvals.create(
        identity,
        title=wanted.title,
        users=wanted.users,
        role=wanted.role,
        id=wanted.id,
        message=wanted.message,
        data=wanted.data,
        choices=CHOICES if wanted.choices is None else wanted.choices,
        deadline=wanted.deadline,
        fallback=wanted.fallback,
        execution=wanted.execution,
        task=wanted.task,
        org=named(wanted.org, read_query(OrganisationQuery).org),
        address=peer_address(),
    )
    return reply(approval, 201)


@blueprint.get("/approvals")
@operation(tags="approvals", query=ApprovalQuery, answer=ApprovalPage, errors=[404])
async def list_approvals() -> Response:
    """List the approvals that ask the user, newest first; a service or admin sees all."""
    identity = await caller()
    query = read_query(ApprovalQuery)
    return reply(
        await services().operations.approvals.list(
            identity,
            status=query.status,
            user=query.user,
            limit=query.limit,
            cursor=query.cursor,
            org=query.org,
        )
    )


@blueprint.get("/approvals/<id>")
@operation(tags="approvals", query=WaitQuery, answer=Approval, errors=[404], patience=MAX_WAIT)
async def get_approval(id: str) -> Response:
    """Get one approval, for asked users and services; with `wait`, answered when it is decided.

    Without a decision in that time the answer is `pending`.
    """
    identity = await caller()
    query = read_query(WaitQuery)
    return reply(
        await services().operations.approvals.get(
            identity, id, wait=query.wait, audit=query.audit, org=query.org
        )
    )


@blueprint.post("/approvals/<id>/decide")
@operation(
    tags="approvals",
    body=ApprovalDecision,
    query=ApprovalOwner,
    answer=Approval,
    errors=[404],
    conflict=ApprovalConflict,
)
async def decide_approval(id: str) -> Response:
    """Decide as an asked user. The first decision counts: later ones get 409 with it."""
    identity = await caller()
    wanted = await read_body(ApprovalDecision)
    return reply(
        await services().operations.approvals.decide(
            identity,
            id,
            choice=wanted.choice,
            comment=wanted.comment,
            org=named(wanted.org, read_query(ApprovalOwner).org),
            address=peer_address(),
        )
    )
