"""``emit`` and one ``emit_…`` for each event of the catalogue, for whatever has a ``publish``.

Pure: they only build what ``publish`` takes. Where that is ``async``, so are they::

    await client.emit_task_started(task_id="t1", agent_id="a7")      # Trio and asyncio
    publisher.emit_task_started(task_id="t1", agent_id="a7")         # a synchronous publisher
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from protocol import events
from protocol.errors import ProtocolError
from protocol.registry import emission

__all__ = ["Emits", "Publishes"]

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")


class Publishes(Protocol[R_co]):
    """What these need: ``publish``, whatever it returns."""

    def publish(self, room: str | None, event: str, data: Any = None) -> R_co:
        """Publish to ``room``, or with None to the whole organisation."""


class _Emit(Generic[P]):
    """A method that takes an event's fields, and publishes it to its own room."""

    def __init__(self, kind: Callable[P, Any]) -> None:
        self._kind = kind
        self.__doc__ = f"Publish a ``protocol.events.{getattr(kind, '__name__', '')}``; takes its fields."

    @overload
    def __get__(self, instance: None, owner: type) -> _Emit[P]: ...
    @overload
    def __get__(self, instance: Publishes[R], owner: type) -> Callable[P, R]: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self

        def emit(*args: P.args, **fields: P.kwargs) -> Any:
            return instance.emit(self._kind(*args, **fields))

        emit.__doc__ = self.__doc__
        return emit


class _EmitTo(Generic[P]):
    """The same for an event that needs a room, which comes first."""

    def __init__(self, kind: Callable[P, Any]) -> None:
        self._kind = kind
        self.__doc__ = f"Publish a ``protocol.events.{getattr(kind, '__name__', '')}`` to a room."

    @overload
    def __get__(self, instance: None, owner: type) -> _EmitTo[P]: ...
    @overload
    def __get__(self, instance: Publishes[R], owner: type) -> Callable[Concatenate[str, P], R]: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self

        def emit(room: str, *args: P.args, **fields: P.kwargs) -> Any:
            return instance.emit(self._kind(*args, **fields), room=room)

        emit.__doc__ = self.__doc__
        return emit


class Emits:
    """Mixin for a class with ``publish(room, event, data)``."""

    def emit(self: Publishes[R], event: Any, *, room: str | None = None) -> R:
        """Publish a typed event: one of ``protocol.events``, a ``Custom``, or an object of your own type.

        It goes to its own room when ``room`` is None. Raises ValueError for one that is not valid or needs a
        room, TypeError for what is no event.
        """
        try:
            place, name, data = emission(event, room=room)
        except ProtocolError as error:
            raise ValueError(error.message) from None
        return self.publish(place, name, data)

    emit_agent_execution_start = _Emit(events.AgentExecutionStart)
    emit_agent_execution_complete = _Emit(events.AgentExecutionComplete)
    emit_agent_execution_error = _Emit(events.AgentExecutionError)
    emit_task_created_for_approval = _Emit(events.TaskCreatedForApproval)
    emit_task_approved = _Emit(events.TaskApproved)
    emit_task_executed = _Emit(events.TaskExecuted)
    emit_permission_pending = _Emit(events.PermissionPending)
    emit_permission_decided = _Emit(events.PermissionDecided)
    emit_notification_new = _Emit(events.NotificationNew)
    emit_notification_read = _Emit(events.NotificationRead)
    emit_notification_deleted = _Emit(events.NotificationDeleted)
    emit_execution_updated = _Emit(events.ExecutionUpdated)
    emit_councilor_started = _Emit(events.CouncilorStarted)
    emit_councilor_completed = _Emit(events.CouncilorCompleted)
    emit_councilor_error = _Emit(events.CouncilorError)
    emit_agent_execution_started = _Emit(events.AgentExecutionStarted)
    emit_agent_execution_completed = _Emit(events.AgentExecutionCompleted)
    emit_agent_metrics_updated = _Emit(events.AgentMetricsUpdated)
    emit_system_alert = _Emit(events.SystemAlert)
    emit_message_new = _EmitTo(events.MessageNew)
    emit_message_status = _EmitTo(events.MessageStatus)
    emit_typing_start = _EmitTo(events.TypingStart)
    emit_typing_stop = _EmitTo(events.TypingStop)
    emit_agent_created = _Emit(events.AgentCreated)
    emit_agent_updated = _Emit(events.AgentUpdated)
    emit_agent_deleted = _Emit(events.AgentDeleted)
    emit_agent_status_changed = _Emit(events.AgentStatusChanged)
    emit_agent_action = _Emit(events.AgentAction)
    emit_task_created = _Emit(events.TaskCreated)
    emit_task_assigned = _Emit(events.TaskAssigned)
    emit_task_started = _Emit(events.TaskStarted)
    emit_task_status_changed = _Emit(events.TaskStatusChanged)
    emit_task_completed = _Emit(events.TaskCompleted)
    emit_task_failed = _Emit(events.TaskFailed)
    emit_task_cancelled = _Emit(events.TaskCancelled)
    emit_election_triggered = _Emit(events.ElectionTriggered)
    emit_leader_elected = _Emit(events.LeaderElected)
    emit_consensus_proposed = _Emit(events.ConsensusProposed)
    emit_consensus_decided = _Emit(events.ConsensusDecided)
    emit_connected = _Emit(events.Connected)
    emit_disconnected = _Emit(events.Disconnected)
    emit_error = _Emit(events.ErrorRaised)
    emit_health_changed = _Emit(events.HealthChanged)
    emit_metrics_updated = _Emit(events.MetricsUpdated)
    emit_alert_triggered = _Emit(events.AlertTriggered)
