"""The catalogue of typed events: what they are called, where they go, what they say.

Names and fields are those that the applications use already: ``agent:execution:start`` and
``agent_execution_started`` come from different ones and stay apart. Identifiers are text of
1 to 200 characters, durations and times are in milliseconds, times since 1970 UTC. ``docs/events.md`` has the
table. Your own types: ``protocol.registry``.

>>> TaskCreated(task_id="t1", title="Sort").event, TaskCreated.room
('task_created', 'tasks')
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from protocol.events.activity import (
    AgentExecutionCompleted,
    AgentExecutionStarted,
    AgentMetricsUpdated,
    CouncilorCompleted,
    CouncilorError,
    CouncilorStarted,
    SystemAlert,
)
from protocol.events.chat import (
    MessageNew,
    MessageStatus,
    TypingStart,
    TypingStop,
)
from protocol.events.core import (
    AgentAction,
    AgentCreated,
    AgentDeleted,
    AgentStatusChanged,
    AgentUpdated,
    AlertTriggered,
    Connected,
    ConsensusDecided,
    ConsensusProposed,
    Disconnected,
    ElectionTriggered,
    ErrorRaised,
    HealthChanged,
    LeaderElected,
    MetricsUpdated,
    TaskAssigned,
    TaskCancelled,
    TaskCompleted,
    TaskCreated,
    TaskFailed,
    TaskStarted,
    TaskStatusChanged,
)
from protocol.events.organisation import (
    AgentExecutionComplete,
    AgentExecutionError,
    AgentExecutionStart,
    PermissionDecided,
    PermissionPending,
    TaskApproved,
    TaskCreatedForApproval,
    TaskExecuted,
)
from protocol.events.platform import (
    ExecutionUpdated,
    NotificationDeleted,
    NotificationNew,
    NotificationRead,
)
from protocol.names import check_event
from protocol.typed import Custom, TypedEvent
from protocol.values import check_value

__all__ = [
    "CATALOGUE", "AgentAction", "AgentCreated", "AgentDeleted", "AgentExecutionComplete",
    "AgentExecutionCompleted", "AgentExecutionError", "AgentExecutionStart", "AgentExecutionStarted",
    "AgentMetricsUpdated", "AgentStatusChanged", "AgentUpdated", "AlertTriggered", "AnyEvent",
    "Connected", "ConsensusDecided", "ConsensusProposed", "CouncilorCompleted", "CouncilorError",
    "CouncilorStarted", "Custom", "Disconnected", "ElectionTriggered", "ErrorRaised", "ExecutionUpdated",
    "HealthChanged", "LeaderElected", "MessageNew", "MessageStatus", "MetricsUpdated",
    "NotificationDeleted", "NotificationNew", "NotificationRead", "PermissionDecided",
    "PermissionPending", "SystemAlert", "TaskApproved", "TaskAssigned", "TaskCancelled", "TaskCompleted",
    "TaskCreated", "TaskCreatedForApproval", "TaskExecuted", "TaskFailed", "TaskStarted",
    "TaskStatusChanged", "TypedEvent", "TypingStart", "TypingStop", "from_data",
]  # fmt: skip

AnyEvent = TypedEvent | Custom

_TYPES: Final[tuple[type[TypedEvent], ...]] = (
    AgentExecutionStart, AgentExecutionComplete, AgentExecutionError, TaskCreatedForApproval,
    TaskApproved, TaskExecuted, PermissionPending, PermissionDecided,
    NotificationNew, NotificationRead, NotificationDeleted, ExecutionUpdated,
    CouncilorStarted, CouncilorCompleted, CouncilorError, AgentExecutionStarted, AgentExecutionCompleted,
    AgentMetricsUpdated, SystemAlert,
    MessageNew, MessageStatus, TypingStart, TypingStop,
    AgentCreated, AgentUpdated, AgentDeleted, AgentStatusChanged, AgentAction, TaskCreated, TaskAssigned,
    TaskStarted, TaskStatusChanged, TaskCompleted, TaskFailed, TaskCancelled, ElectionTriggered,
    LeaderElected, ConsensusProposed, ConsensusDecided, Connected, Disconnected, ErrorRaised,
    HealthChanged, MetricsUpdated, AlertTriggered,
)  # fmt: skip

CATALOGUE: Final[Mapping[str, type[TypedEvent]]] = MappingProxyType({typed.event: typed for typed in _TYPES})
"""Every typed event by its name."""


def from_data(event: str, data: object) -> AnyEvent:
    """Make the typed event that an envelope's ``event`` and ``data`` say; ``Custom`` for other names.

    Raises ``ProtocolError``: MISSING_FIELD and BAD_FIELD naming the field when the data are not valid,
    BAD_EVENT when the name is not.
    """
    typed = CATALOGUE.get(event)
    return Custom(check_event(event), check_value(data)) if typed is None else typed.from_data(data)
