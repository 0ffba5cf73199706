"""Events of an agent core, in the rooms ``agents``, ``tasks``, ``coordination`` and ``system``."""

from __future__ import annotations

from typing import Any, Literal

from protocol.typed import Details, Id, Metrics, Milliseconds, Severity, Text, TypedEvent
from protocol.values import Unsigned

__all__ = [
    "AgentAction",
    "AgentCreated",
    "AgentDeleted",
    "AgentStatusChanged",
    "AgentUpdated",
    "AlertTriggered",
    "Connected",
    "ConsensusDecided",
    "ConsensusProposed",
    "Disconnected",
    "ElectionTriggered",
    "ErrorRaised",
    "HealthChanged",
    "LeaderElected",
    "MetricsUpdated",
    "TaskAssigned",
    "TaskCancelled",
    "TaskCompleted",
    "TaskCreated",
    "TaskFailed",
    "TaskStarted",
    "TaskStatusChanged",
]

# --- agents ----------------------------------------------------------------------------------------


class AgentCreated(TypedEvent, frozen=True, kw_only=True):
    event = "agent_created"
    room = "agents"
    agent_id: Id
    name: Text | None = None
    status: Text | None = None


class AgentUpdated(TypedEvent, frozen=True, kw_only=True):
    event = "agent_updated"
    room = "agents"
    agent_id: Id
    changes: Details


class AgentDeleted(TypedEvent, frozen=True, kw_only=True):
    event = "agent_deleted"
    room = "agents"
    agent_id: Id


class AgentStatusChanged(TypedEvent, frozen=True, kw_only=True):
    event = "agent_status_changed"
    room = "agents"
    agent_id: Id
    status: Text
    previous: Text | None = None


class AgentAction(TypedEvent, frozen=True, kw_only=True):
    event = "agent_action"
    room = "agents"
    agent_id: Id
    action: Text
    result: Any = None


# --- tasks -----------------------------------------------------------------------------------------


class TaskCreated(TypedEvent, frozen=True, kw_only=True):
    event = "task_created"
    room = "tasks"
    task_id: Id
    title: Text | None = None


class TaskAssigned(TypedEvent, frozen=True, kw_only=True):
    event = "task_assigned"
    room = "tasks"
    task_id: Id
    agent_id: Id


class TaskStarted(TypedEvent, frozen=True, kw_only=True):
    event = "task_started"
    room = "tasks"
    task_id: Id
    agent_id: Id | None = None


class TaskStatusChanged(TypedEvent, frozen=True, kw_only=True):
    event = "task_status_changed"
    room = "tasks"
    task_id: Id
    status: Text
    previous: Text | None = None
    agent_id: Id | None = None


class TaskCompleted(TypedEvent, frozen=True, kw_only=True):
    event = "task_completed"
    room = "tasks"
    task_id: Id
    agent_id: Id | None = None
    duration_ms: Milliseconds | None = None
    result: Any = None


class TaskFailed(TypedEvent, frozen=True, kw_only=True):
    event = "task_failed"
    room = "tasks"
    task_id: Id
    error: Text
    agent_id: Id | None = None


class TaskCancelled(TypedEvent, frozen=True, kw_only=True):
    event = "task_cancelled"
    room = "tasks"
    task_id: Id
    reason: Text | None = None


# --- coordination ----------------------------------------------------------------------------------


class ElectionTriggered(TypedEvent, frozen=True, kw_only=True):
    event = "election_triggered"
    room = "coordination"
    election_id: Id | None = None
    reason: Text | None = None


class LeaderElected(TypedEvent, frozen=True, kw_only=True):
    event = "leader_elected"
    room = "coordination"
    leader_id: Id
    election_id: Id | None = None
    term: Unsigned | None = None


class ConsensusProposed(TypedEvent, frozen=True, kw_only=True):
    event = "consensus_proposed"
    room = "coordination"
    proposal_id: Id
    agent_id: Id | None = None
    """Who proposed it."""
    value: Any = None


class ConsensusDecided(TypedEvent, frozen=True, kw_only=True):
    event = "consensus_decided"
    room = "coordination"
    proposal_id: Id
    accepted: bool
    value: Any = None


# --- system ----------------------------------------------------------------------------------------


class Connected(TypedEvent, frozen=True, kw_only=True):
    event = "connected"
    room = "system"
    connection_id: Id
    user: Id | None = None


class Disconnected(TypedEvent, frozen=True, kw_only=True):
    event = "disconnected"
    room = "system"
    connection_id: Id
    user: Id | None = None
    code: Unsigned | None = None
    """The close code."""
    reason: str | None = None


class ErrorRaised(TypedEvent, frozen=True, kw_only=True):
    event = "error"
    room = "system"
    message: Text
    code: Unsigned | None = None


class HealthChanged(TypedEvent, frozen=True, kw_only=True):
    event = "health_changed"
    room = "system"
    component: Id
    status: Literal["healthy", "degraded", "unhealthy"]
    previous: Literal["healthy", "degraded", "unhealthy"] | None = None


class MetricsUpdated(TypedEvent, frozen=True, kw_only=True):
    event = "metrics_updated"
    room = "system"
    metrics: Metrics
    component: Id | None = None


class AlertTriggered(TypedEvent, frozen=True, kw_only=True):
    event = "alert_triggered"
    room = "system"
    severity: Severity
    message: Text
    alert_id: Id | None = None
