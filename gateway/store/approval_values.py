"""An approval as the store gives it back, and what is told of it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from sqlalchemy import Row

from gateway.store.rows import parse_json

__all__ = ["APPROVE", "DECIDED", "PENDING", "TASK_APPROVED", "Approval", "Origin", "Status", "approval_of"]

Status = Literal["pending", "decided", "expired"]

PENDING = "permission:pending"
DECIDED = "permission:decided"
TASK_APPROVED = "task:approved"

APPROVE = "approve"
"""The choice that approves the task that was named."""


class Origin(msgspec.Struct, frozen=True):
    """From where somebody asks or decides."""

    address: str | None = None
    """The client's IP address."""
    connection: str | None = None
    """The id of the connection; None for a request by HTTP."""


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody is asked to permit; times are milliseconds since 1970 UTC."""

    id: int
    name: str
    """The id that clients know it by."""
    org: str
    title: str
    message: str | None = None
    data: Any = None
    choices: tuple[str, ...]
    users: tuple[str, ...] = ()
    """Who is asked; nobody when a role is."""
    role: str | None = None
    deadline_ms: int
    fallback: str | None = None
    """The choice at the deadline; None: it expires."""
    execution: str | None = None
    task: str | None = None
    sender: str | None = None
    created_ms: int
    choice: str | None = None
    comment: str | None = None
    decided_ms: int | None = None
    """When it was decided or expired; None while it is open."""
    decided_by: str | None = None
    """None for a decision by the deadline."""

    @property
    def status(self) -> Status:
        """How it stands."""
        if self.decided_ms is None:
            return "pending"
        return "expired" if self.choice is None else "decided"

    @property
    def decision(self) -> dict[str, Any] | None:
        """What was decided, by whom and when; None while it is open, and when it has expired."""
        if self.choice is None:
            return None
        found: dict[str, Any] = {"choice": self.choice, "at": self.decided_ms}
        if self.decided_by is None:
            found["fallback"] = True
        else:
            found["user"] = self.decided_by
        if self.comment is not None:
            found["comment"] = self.comment
        return found

    def as_data(self) -> dict[str, Any]:
        """What clients are shown, without what is absent."""
        shown: dict[str, Any] = {
            "id": self.name,
            "status": self.status,
            "title": self.title,
            "choices": list(self.choices),
            "created_at": self.created_ms,
            "deadline_at": self.deadline_ms,
        }
        optional = {
            "message": self.message,
            "data": self.data,
            "users": list(self.users) or None,
            "role": self.role,
            "fallback": self.fallback,
            "execution": self.execution,
            "task": self.task,
            "sender": self.sender,
            "decision": self.decision,
        }
        shown.update((name, value) for name, value in optional.items() if value is not None)
        return shown

    def told(self, event: str) -> dict[str, Any]:
        """The data of an event about it, as ``protocol.events`` types it."""
        shown = self.as_data() if event != TASK_APPROVED else {"task_id": self.task, "approval": self.name}
        if event == TASK_APPROVED and self.execution is not None:
            shown["execution"] = self.execution
        said = {"choice": self.choice, "user": self.decided_by, "comment": self.comment}
        return shown | {name: value for name, value in said.items() if value is not None}


def approval_of(row: Row[Any]) -> Approval:
    """From a row of the table."""
    return Approval(
        id=row.id,
        name=row.name,
        org=row.org,
        title=row.title,
        message=row.message,
        data=parse_json(row.data),
        choices=tuple(parse_json(row.choices)),
        users=tuple(parse_json(row.users) or ()),
        role=row.role,
        deadline_ms=row.deadline_ms,
        fallback=row.fallback,
        execution=row.execution,
        task=row.task,
        sender=row.sender,
        created_ms=row.created_ms,
        choice=row.choice,
        comment=row.comment,
        decided_ms=row.decided_ms,
        decided_by=row.decided_by,
    )
