"""Events for a whole organisation: agents' executions, tasks to approve, permissions."""

from __future__ import annotations

from typing import Any, Literal

from protocol.typed import Id, Seconds, Text, TypedEvent
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


class AgentExecutionStart(TypedEvent, frozen=True, kw_only=True):
    event = "agent:execution:start"
    execution: Id
    agent: Id
    team: Text | None = None
    method: Text | None = None
    status: Text | None = None
    task: Id | None = None


class AgentExecutionComplete(TypedEvent, frozen=True, kw_only=True):
    event = "agent:execution:complete"
    execution: Id
    agent: Id
    team: Text | None = None
    method: Text | None = None
    status: Text | None = None
    task: Id | None = None
    duration: Seconds | None = None
    tools: list[Any] | None = None
    """Tools that were used."""
    result: Any = None


class AgentExecutionError(TypedEvent, frozen=True, kw_only=True):
    event = "agent:execution:error"
    execution: Id
    agent: Id
    error: Text
    team: Text | None = None
    method: Text | None = None
    status: Text | None = None
    task: Id | None = None
    duration: Seconds | None = None
    tools: list[Any] | None = None
    """Tools that were used."""


class TaskCreatedForApproval(TypedEvent, frozen=True, kw_only=True):
    event = "task:created"
    task: Id
    title: Text | None = None
    description: str | None = None
    agent: Id | None = None


class TaskApproved(TypedEvent, frozen=True, kw_only=True):
    event = "task:approved"
    task: Id
    user: Id | None = None
    """Who approved it."""
    approval: Id | None = None
    execution: Id | None = None
    comment: str | None = None


class TaskExecuted(TypedEvent, frozen=True, kw_only=True):
    event = "task:executed"
    task: Id
    success: bool
    agent: Id | None = None
    execution: Id | None = None
    duration: Seconds | None = None
    result: Any = None
    error: Text | None = None


class PermissionPending(TypedEvent, frozen=True, kw_only=True):
    event = "permission:pending"
    permission: Id
    """The approval's id."""
    action: Text
    """What is to be permitted."""
    agent: Id | None = None
    execution: Id | None = None
    task: Id | None = None
    message: str | None = None
    choices: list[Text] | None = None
    users: list[Id] | None = None
    role: Text | None = None
    deadline_at: Unsigned | None = None
    """When it is decided without an answer, in milliseconds since 1970 UTC."""
    fallback: Text | None = None
    """The choice that is made then."""
    data: Any = None


class PermissionDecided(TypedEvent, frozen=True, kw_only=True):
    event = "permission:decided"
    permission: Id
    """The approval's id."""
    action: Text
    """What was to be permitted."""
    status: Literal["decided", "expired"] | None = None
    decision: dict[str, Any] | None = None
    """``choice``, ``user`` (absent for the fallback), ``at``, ``comment``; absent when it has expired."""
    execution: Id | None = None
    task: Id | None = None
    data: Any = None
