"""The bodies of requests and answers about approvals."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from gateway.operations.approvals import (
    MAX_CHOICE,
    MAX_CHOICES,
    MAX_COMMENT,
    MAX_DATA,
    MAX_ID,
    MAX_MESSAGE,
    MAX_PAGE,
    MAX_TITLE,
    MAX_USERS,
    MAX_WAIT,
    Status,
)
from gateway.rest.models import Body, Cursor, Milliseconds, Org, Problem

__all__ = [
    "Approval",
    "ApprovalConflict",
    "ApprovalCreation",
    "ApprovalDecision",
    "ApprovalOwner",
    "ApprovalPage",
    "ApprovalQuery",
    "AuditEntry",
    "Decision",
    "WaitQuery",
]

Choices = Annotated[
    list[str],
    msgspec.Meta(description=f"1 to {MAX_CHOICES}, each of 1 to {MAX_CHOICE} characters."),
]
Title = Annotated[str, msgspec.Meta(description=f"1 to {MAX_TITLE} characters, in one line.")]


class ApprovalCreation(Body, omit_defaults=True):
    """What `users`, or a `role`, are asked to permit."""

    title: Title
    users: Annotated[list[str], msgspec.Meta(description=f"1 to {MAX_USERS}.")] | None = None
    role: (
        Annotated[str, msgspec.Meta(description="A role of tokens: any user with it may decide.")] | None
    ) = None
    id: (
        Annotated[
            str,
            msgspec.Meta(description=f"1 to {MAX_ID} bytes without `/`; makes the request safe to repeat."),
        ]
        | None
    ) = None
    message: Annotated[str, msgspec.Meta(description=f"1 to {MAX_MESSAGE:,} characters.")] | None = None
    data: (
        Annotated[Any, msgspec.Meta(description=f"At most {MAX_DATA:,} bytes of JSON, 8 levels deep.")] | None
    ) = None
    choices: Choices | None = None
    deadline: (
        Annotated[
            float,
            msgspec.Meta(description="Seconds from now; by default and at most `store.approvals_longest`."),
        ]
        | None
    ) = None
    fallback: (
        Annotated[
            str,
            msgspec.Meta(description="The choice taken at the deadline; without it the approval expires."),
        ]
        | None
    ) = None
    execution: (
        Annotated[str, msgspec.Meta(description="The decision is published in its room `execution:ID`.")]
        | None
    ) = None
    task: (
        Annotated[str, msgspec.Meta(description="`task:approved` is sent when `approve` is chosen.")] | None
    ) = None
    org: Org | None = None


class ApprovalDecision(Body, omit_defaults=True):
    """What one who is asked decides."""

    choice: Annotated[str, msgspec.Meta(description="One of the approval's `choices`.")]
    comment: Annotated[str, msgspec.Meta(description=f"1 to {MAX_COMMENT:,} characters.")] | None = None
    org: Org | None = None


class Decision(msgspec.Struct, omit_defaults=True):
    choice: str
    at: Milliseconds
    user: (
        Annotated[str, msgspec.Meta(description="The user who decided; absent for the deadline.")] | None
    ) = None
    fallback: Annotated[bool, msgspec.Meta(description="True when the deadline decided.")] | None = None
    comment: str | None = None


class AuditEntry(msgspec.Struct, omit_defaults=True):
    action: Annotated[str, msgspec.Meta(description="`created`, `decided`, `fallback` or `expired`.")]
    at: Milliseconds
    user: str | None = None
    address: str | None = None
    connection: str | None = None
    choice: str | None = None


class Approval(msgspec.Struct, omit_defaults=True):
    id: str
    status: Status
    title: str
    choices: list[str]
    created_at: Milliseconds
    deadline_at: Milliseconds
    message: str | None = None
    data: Any = None
    users: list[str] | None = None
    role: str | None = None
    fallback: str | None = None
    execution: str | None = None
    task: str | None = None
    sender: Annotated[str, msgspec.Meta(description="The service that asked.")] | None = None
    decision: Decision | None = None
    audit: list[AuditEntry] | None = None


class ApprovalConflict(Problem, omit_defaults=True, kw_only=True):
    """A problem document (RFC 9457) with the approval as it is; `decision` is absent when it has expired."""

    approval: Approval
    decision: Decision | None = None


class ApprovalPage(msgspec.Struct, omit_defaults=True):
    """Approvals, the newest first."""

    approvals: list[Approval]
    next: Cursor | None = None


class ApprovalOwner(msgspec.Struct):
    org: Org | None = None


class WaitQuery(ApprovalOwner):
    wait: Annotated[
        float,
        msgspec.Meta(ge=0, le=MAX_WAIT, description="Seconds to wait for the decision while it is pending."),
    ] = 0.0
    audit: Annotated[
        bool,
        msgspec.Meta(description="Include all actions with user, time and address (role service or admin)."),
    ] = False


class ApprovalQuery(ApprovalOwner):
    status: Annotated[Status, msgspec.Meta(description="Only those.")] | None = None
    user: (
        Annotated[
            str,
            msgspec.Meta(description="Those that ask this user; other users' only for service and admin."),
        ]
        | None
    ) = None
    limit: Annotated[
        int, msgspec.Meta(ge=1, le=MAX_PAGE, description="Largest number of entries in one page.")
    ] = 50
    cursor: Cursor | None = None
