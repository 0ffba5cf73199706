"""The catalogue of typed events: what they are called, where they go, what they say.

Names are those that the applications use already: ``agent:execution:start`` and
``agent_execution_started`` come from different ones and stay apart. Identifiers are text of
1 to 200 characters, durations are in seconds, times in milliseconds since 1970 UTC.

>>> TaskCreated(task="t1", title="Sort").event, TaskCreated.room
('task_created', 'tasks')
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

import msgspec

from protocol.names import check_event
from protocol.typed import Custom, Details, Id, Metrics, Seconds, Severity, Text, TypedEvent
from protocol.values import Unsigned, check_value

__all__ = [
    "CATALOGUE", "AgentAction", "AgentCreated", "AgentDeleted", "AgentExecutionComplete",
    "AgentExecutionCompleted", "AgentExecutionError", "AgentExecutionStart", "AgentExecutionStarted",
    "AgentMetricsUpdated", "AgentStatusChanged", "AgentUpdated", "AlertTriggered", "AnyEvent", "Connected",
    "ConsensusDecided", "ConsensusProposed", "CouncilorCompleted", "CouncilorError", "CouncilorStarted",
    "Custom", "Disconnected", "ElectionTriggered", "ErrorRaised", "ExecutionUpdated", "HealthChanged",
    "LeaderElected", "MessageNew", "MessageStatus", "MetricsUpdated", "NotificationNew",
    "PermissionPending", "SystemAlert", "TaskApproved", "TaskAssigned", "TaskCancelled", "TaskCompleted",
    "TaskCreated", "TaskCreatedForApproval", "TaskExecuted", "TaskFailed", "TaskStarted", "TypedEvent",
    "TypingStart", "TypingStop", "from_data",
]  # fmt: skip

AnyEvent = TypedEvent | Custom

# --- Connections -----------------------------------------------------------------------


class Connected(TypedEvent, frozen=True, kw_only=True):
    event = "connected"
    room = "system"
    connection: Id
    user: Id | None = None


class Disconnected(TypedEvent, frozen=True, kw_only=True):
    event = "disconnected"
    room = "system"
    connection: Id
    user: Id | None = None
    code: Unsigned | None = None
    """The close code."""
    reason: str | None = None


class ErrorRaised(TypedEvent, frozen=True, kw_only=True):
    event = "error"
    room = "system"
    message: Text
    code: Unsigned | None = None
    source: Id | None = None


# --- Notifications for organisations: agents' executions, tasks, permissions --------------


class AgentExecutionStart(TypedEvent, frozen=True, kw_only=True):
    event = "agent:execution:start"
    execution: Id
    agent: Id
    method: Text | None = None


class AgentExecutionComplete(TypedEvent, frozen=True, kw_only=True):
    event = "agent:execution:complete"
    execution: Id
    agent: Id
    method: Text | None = None
    duration: Seconds | None = None
    tools: list[Text] | None = None
    result: Any = None


class AgentExecutionError(TypedEvent, frozen=True, kw_only=True):
    event = "agent:execution:error"
    execution: Id
    agent: Id
    error: Text
    method: Text | None = None
    duration: Seconds | None = None


class TaskCreatedForApproval(TypedEvent, frozen=True, kw_only=True):
    event = "task:created"
    task: Id
    title: Text | None = None
    agent: Id | None = None


class TaskApproved(TypedEvent, frozen=True, kw_only=True):
    event = "task:approved"
    task: Id
    user: Id | None = None
    """Who approved it."""


class TaskExecuted(TypedEvent, frozen=True, kw_only=True):
    event = "task:executed"
    task: Id
    success: bool
    agent: Id | None = None
    result: Any = None


class PermissionPending(TypedEvent, frozen=True, kw_only=True):
    event = "permission:pending"
    permission: Id
    action: Text
    """What is to be permitted."""
    agent: Id | None = None
    task: Id | None = None


# --- Platform: notifications to users, progress of executions --------------------------------


class NotificationNew(TypedEvent, frozen=True, kw_only=True):
    event = "notification:new"
    notification: Id
    type: Literal["info", "success", "warning", "error"]
    title: Text
    message: str | None = None
    action: Details | None = None


class ExecutionUpdated(TypedEvent, frozen=True, kw_only=True):
    event = "execution:updated"
    execution: Id
    status: Literal["queued", "running", "completed", "failed"]
    progress: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """The part that is done, 0 to 1."""
    step: Text | None = None
    result: Any = None
    error: Text | None = None


# --- Activity feed ---------------------------------------------------------------------------


class CouncilorStarted(TypedEvent, frozen=True, kw_only=True):
    event = "councilor_started"
    councilor: Id
    task: Id | None = None


class CouncilorCompleted(TypedEvent, frozen=True, kw_only=True):
    event = "councilor_completed"
    councilor: Id
    task: Id | None = None
    duration: Seconds | None = None
    result: Any = None


class CouncilorError(TypedEvent, frozen=True, kw_only=True):
    event = "councilor_error"
    councilor: Id
    error: Text
    task: Id | None = None


class AgentExecutionStarted(TypedEvent, frozen=True, kw_only=True):
    event = "agent_execution_started"
    execution: Id
    agent: Id


class AgentExecutionCompleted(TypedEvent, frozen=True, kw_only=True):
    event = "agent_execution_completed"
    execution: Id
    agent: Id
    success: bool
    duration: Seconds | None = None
    result: Any = None


class AgentMetricsUpdated(TypedEvent, frozen=True, kw_only=True):
    event = "agent_metrics_updated"
    agent: Id
    metrics: Metrics


class SystemAlert(TypedEvent, frozen=True, kw_only=True):
    event = "system_alert"
    severity: Severity
    message: Text


# --- Chat: always in the room of a conversation --------------------------------------------------


class MessageNew(TypedEvent, frozen=True, kw_only=True):
    event = "message:new"
    needs_room = True
    text: str
    message: Id | None = None
    """The application's own id of it; the envelope has ``mid`` besides."""
    user: Id | None = None


class MessageStatus(TypedEvent, frozen=True, kw_only=True):
    event = "message:status"
    needs_room = True
    message: Id
    status: Literal["sent", "delivered", "read", "failed"]
    user: Id | None = None
    """Whom the status is about."""


class TypingStart(TypedEvent, frozen=True, kw_only=True):
    event = "typing:start"
    needs_room = True
    user: Id


class TypingStop(TypedEvent, frozen=True, kw_only=True):
    event = "typing:stop"
    needs_room = True
    user: Id


# --- Agent core: agents ------------------------------------------------------------------------


class AgentCreated(TypedEvent, frozen=True, kw_only=True):
    event = "agent_created"
    room = "agents"
    agent: Id
    name: Text | None = None


class AgentUpdated(TypedEvent, frozen=True, kw_only=True):
    event = "agent_updated"
    room = "agents"
    agent: Id
    changes: Details


class AgentDeleted(TypedEvent, frozen=True, kw_only=True):
    event = "agent_deleted"
    room = "agents"
    agent: Id


class AgentStatusChanged(TypedEvent, frozen=True, kw_only=True):
    event = "agent_status_changed"
    room = "agents"
    agent: Id
    status: Text
    previous: Text | None = None


class AgentAction(TypedEvent, frozen=True, kw_only=True):
    event = "agent_action"
    room = "agents"
    agent: Id
    action: Text
    result: Any = None


# --- Agent core: tasks -----------------------------------------------------------------------


class TaskCreated(TypedEvent, frozen=True, kw_only=True):
    event = "task_created"
    room = "tasks"
    task: Id
    title: Text | None = None


class TaskAssigned(TypedEvent, frozen=True, kw_only=True):
    event = "task_assigned"
    room = "tasks"
    task: Id
    agent: Id


class TaskStarted(TypedEvent, frozen=True, kw_only=True):
    event = "task_started"
    room = "tasks"
    task: Id
    agent: Id | None = None


class TaskCompleted(TypedEvent, frozen=True, kw_only=True):
    event = "task_completed"
    room = "tasks"
    task: Id
    agent: Id | None = None
    result: Any = None


class TaskFailed(TypedEvent, frozen=True, kw_only=True):
    event = "task_failed"
    room = "tasks"
    task: Id
    error: Text
    agent: Id | None = None


class TaskCancelled(TypedEvent, frozen=True, kw_only=True):
    event = "task_cancelled"
    room = "tasks"
    task: Id
    reason: Text | None = None


# --- Agent core: coordination --------------------------------------------------------------------


class ElectionTriggered(TypedEvent, frozen=True, kw_only=True):
    event = "election_triggered"
    room = "coordination"
    election: Id | None = None
    reason: Text | None = None


class LeaderElected(TypedEvent, frozen=True, kw_only=True):
    event = "leader_elected"
    room = "coordination"
    leader: Id
    term: Unsigned | None = None


class ConsensusProposed(TypedEvent, frozen=True, kw_only=True):
    event = "consensus_proposed"
    room = "coordination"
    proposal: Id
    agent: Id | None = None
    """Who proposed it."""
    value: Any = None


class ConsensusDecided(TypedEvent, frozen=True, kw_only=True):
    event = "consensus_decided"
    room = "coordination"
    proposal: Id
    accepted: bool
    value: Any = None


# --- Agent core: system --------------------------------------------------------------------------


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
    alert: Id | None = None


CATALOGUE: Final[Mapping[str, type[TypedEvent]]] = MappingProxyType(
    {typed.event: typed for typed in TypedEvent.__subclasses__()}
)
"""Every typed event by its name."""


def from_data(event: str, data: object) -> AnyEvent:
    """Make the typed event that an envelope's ``event`` and ``data`` say; ``Custom`` for other names.

    Raises ``ProtocolError``: BAD_FIELD naming the field when the data are not valid,
    BAD_EVENT when the name is not.
    """
    typed = CATALOGUE.get(event)
    return Custom(check_event(event), check_value(data)) if typed is None else typed.read(data)
