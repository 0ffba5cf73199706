"""Events for a whole organisation: agents' executions, tasks to approve, permissions."""

from __future__ import annotations

from typing import Any

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


class AgentExecutionStart(TypedEvent, frozen=True, kw_only=True):
    event = "agent:execution:start"
    execution_id: Id
    agent_id: Id
    agent_name: Text | None = None
    method: Text | None = None
    task_id: Id | None = None


class AgentExecutionComplete(TypedEvent, frozen=True, kw_only=True):
    event = "agent:execution:complete"
    execution_id: Id
    agent_id: Id
    agent_name: Text | None = None
    method: Text | None = None
    task_id: Id | None = None
    duration_ms: Milliseconds | None = None
    tools: list[Text] | None = None
    """Tools that were used."""
    result: Any = None


class AgentExecutionError(TypedEvent, frozen=True, kw_only=True):
    event = "agent:execution:error"
    execution_id: Id
    agent_id: Id
    error: Text
    agent_name: Text | None = None
    method: Text | None = None
    task_id: Id | None = None
    duration_ms: Milliseconds | None = None
    tools: list[Text] | None = None
    """Tools that were used."""


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
    comment: str | None = None


class TaskExecuted(TypedEvent, frozen=True, kw_only=True):
    event = "task:executed"
    task_id: Id
    success: bool
    agent_id: Id | None = None
    duration_ms: Milliseconds | None = None
    result: Any = None
    error: Text | None = None


class PermissionPending(TypedEvent, frozen=True, kw_only=True):
    event = "permission:pending"
    id: Id
    title: Text
    message: str | None = None
    choices: list[Text] | None = None
    deadline: Unsigned | None = None
    """When it is decided without an answer, in milliseconds since 1970 UTC."""
    fallback: Text | None = None
    """The choice that is made then."""
    execution: Id | None = None
    task: Id | None = None
    data: Any = None


class PermissionDecided(TypedEvent, frozen=True, kw_only=True):
    event = "permission:decided"
    id: Id
    choice: Text | None = None
    """None: the deadline passed and there was no fallback."""
    user: Id | None = None
    """Who decided; None: nobody did."""
    comment: str | None = None
    execution: Id | None = None
    task: Id | None = None
