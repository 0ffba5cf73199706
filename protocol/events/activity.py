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


class _Activity(TypedEvent, frozen=True, kw_only=True):
    """One line of the feed."""

    display_name: Text | None = None
    task_name: Text | None = None
    severity: Severity | None = None
    """``success`` or ``error`` says how it ended."""
    message: str | None = None


class _Councilor(_Activity, frozen=True, kw_only=True):
    councilor_id: Id
    execution_id: Id | None = None


class CouncilorStarted(_Councilor, frozen=True, kw_only=True):
    event = "councilor_started"


class CouncilorCompleted(_Councilor, frozen=True, kw_only=True):
    event = "councilor_completed"
    success: bool | None = None
    duration_ms: Milliseconds | None = None
    result: Any = None


class CouncilorError(_Councilor, frozen=True, kw_only=True):
    event = "councilor_error"
    error: Text
    success: bool | None = None
    duration_ms: Milliseconds | None = None


class AgentExecutionStarted(_Activity, frozen=True, kw_only=True):
    event = "agent_execution_started"
    execution_id: Id
    agent_id: Id | None = None


class AgentExecutionCompleted(_Activity, frozen=True, kw_only=True):
    event = "agent_execution_completed"
    execution_id: Id
    agent_id: Id | None = None
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
