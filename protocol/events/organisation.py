"""Events for a whole organisation: agents' executions, tasks to approve, permissions."""

from __future__ import annotations

from typing import Any, Literal

from protocol.typed import Id, Milliseconds, Text, TypedEvent
from protocol.values import Unsigned

__all__ = [
    "AgentExecutionComplete",
    "AgentExecutionError",
    "AgentExecutionStart",
    "PermissionDecided",
    "PermissionPending",
    "TaskApproved",
    "TaskCreatedForApproval",
    "TaskExecuted",
]


class _Execution(TypedEvent, frozen=True, kw_only=True):
    execution_id: Id
    agent_id: Id
    team: Text | None = None
    method: Text | None = None
    status: Text | None = None
    task_id: Id | None = None


class _Ended(_Execution, frozen=True, kw_only=True):
    duration_ms: Milliseconds | None = None
    tools: list[Any] | None = None
    """Tools that were used."""


class AgentExecutionStart(_Execution, frozen=True, kw_only=True):
    event = "agent:execution:start"


class AgentExecutionComplete(_Ended, frozen=True, kw_only=True):
    event = "agent:execution:complete"
    result: Any = None


class AgentExecutionError(_Ended, frozen=True, kw_only=True):
    event = "agent:execution:error"
    error: Text


class TaskCreatedForApproval(TypedEvent, frozen=True, kw_only=True):
    event = "task:created"
    task_id: Id
    title: Text | None = None
    description: str | None = None
    agent_id: Id | None = None


class TaskApproved(TypedEvent, frozen=True, kw_only=True):
    event = "task:approved"
    task_id: Id
    user: Id | None = None
    """Who approved it."""
    approval: Id | None = None
    choice: Text | None = None
    execution: Id | None = None
    comment: str | None = None


class TaskExecuted(TypedEvent, frozen=True, kw_only=True):
    event = "task:executed"
    task_id: Id
    success: bool
    agent_id: Id | None = None
    execution_id: Id | None = None
    duration_ms: Milliseconds | None = None
    result: Any = None
    error: Text | None = None


class _Permission(TypedEvent, frozen=True, kw_only=True):
    """What is to be permitted, and who was asked."""

    id: Id
    message: str | None = None
    choices: list[Text] | None = None
    users: list[Id] | None = None
    role: Text | None = None
    created_at: Unsigned | None = None
    """In milliseconds since 1970 UTC, as the next one."""
    deadline_at: Unsigned | None = None
    """When it is decided without an answer."""
    fallback: Text | None = None
    """The choice that is made then."""
    execution: Id | None = None
    task: Id | None = None
    sender: str | None = None
    data: Any = None


class PermissionPending(_Permission, frozen=True, kw_only=True):
    event = "permission:pending"
    title: Text
    """What is to be permitted."""
    status: Literal["pending"] | None = None


class PermissionDecided(_Permission, frozen=True, kw_only=True):
    event = "permission:decided"
    title: Text | None = None
    """What was to be permitted."""
    status: Literal["decided", "expired"] | None = None
    choice: Text | None = None
    """None: it has expired."""
    user: Id | None = None
    """Who decided; None: the deadline did."""
    comment: str | None = None
    decision: dict[str, Any] | None = None
    """``choice``, ``at``, and ``user`` or ``fallback``."""
