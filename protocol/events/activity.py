"""Events of an activity feed: councilors and agents at work."""

from __future__ import annotations

from typing import Any

from protocol.typed import Id, Metrics, Milliseconds, Severity, Text, TypedEvent

__all__ = [
    "AgentExecutionCompleted",
    "AgentExecutionStarted",
    "AgentMetricsUpdated",
    "CouncilorCompleted",
    "CouncilorError",
    "CouncilorStarted",
    "SystemAlert",
]


class CouncilorStarted(TypedEvent, frozen=True, kw_only=True):
    event = "councilor_started"
    councilor_id: Id
    display_name: Text | None = None
    task_name: Text | None = None
    execution_id: Id | None = None
    severity: Severity | None = None
    message: str | None = None


class CouncilorCompleted(TypedEvent, frozen=True, kw_only=True):
    event = "councilor_completed"
    councilor_id: Id
    display_name: Text | None = None
    task_name: Text | None = None
    execution_id: Id | None = None
    severity: Severity | None = None
    message: str | None = None
    success: bool | None = None
    duration_ms: Milliseconds | None = None
    result: Any = None


class CouncilorError(TypedEvent, frozen=True, kw_only=True):
    event = "councilor_error"
    councilor_id: Id
    error: Text
    display_name: Text | None = None
    task_name: Text | None = None
    execution_id: Id | None = None
    severity: Severity | None = None
    message: str | None = None
    success: bool | None = None
    duration_ms: Milliseconds | None = None


class AgentExecutionStarted(TypedEvent, frozen=True, kw_only=True):
    event = "agent_execution_started"
    execution_id: Id
    agent_id: Id | None = None
    display_name: Text | None = None
    task_name: Text | None = None
    severity: Severity | None = None
    message: str | None = None


class AgentExecutionCompleted(TypedEvent, frozen=True, kw_only=True):
    event = "agent_execution_completed"
    execution_id: Id
    agent_id: Id | None = None
    display_name: Text | None = None
    task_name: Text | None = None
    severity: Severity | None = None
    """``success`` or ``error`` says how it ended."""
    message: str | None = None
    success: bool | None = None
    duration_ms: Milliseconds | None = None
    result: Any = None
    error: Text | None = None


class AgentMetricsUpdated(TypedEvent, frozen=True, kw_only=True):
    event = "agent_metrics_updated"
    agent_id: Id
    metrics: Metrics
    display_name: Text | None = None


class SystemAlert(TypedEvent, frozen=True, kw_only=True):
    event = "system_alert"
    severity: Severity
    message: Text
    display_name: Text | None = None
