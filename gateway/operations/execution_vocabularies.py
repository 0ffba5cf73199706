"""The events of other systems that say the same of an execution, so that their pages need no change. Pure.

Vocabulary ``a`` has ``agent:execution:start``, ``:complete`` and ``:error``; ``c`` has
``agent_execution_started`` and ``_completed``, and ``councilor_started``, ``_completed`` and ``_error``. Each
event has the fields of the catalogue (``protocol.events``), which are those that the systems themselves send.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

__all__ = ["translations"]


def translations(
    vocabularies: Collection[str], was: str | None, row: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Events and their data for the change of an execution from the status ``was`` to what ``row`` says."""
    status = row["status"]
    if status in (was, "queued"):
        return
    if "a" in vocabularies:
        yield _of_a(status, row)
    if "c" in vocabularies:
        yield from _of_c(status, row)


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _error(status: str, row: dict[str, Any]) -> str:
    return str(row.get("error") or status)


def _milliseconds(row: dict[str, Any]) -> int | None:
    duration = row.get("duration")
    return None if duration is None else round(duration * 1000)


def _of_a(status: str, row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    fields = _present(
        execution_id=row["id"],
        agent_id=row["agent"],
        team=row.get("team"),
        method=row.get("method"),
        ts=row["updated_at"],
        status=status,
    )
    if status == "running":
        return "agent:execution:start", fields
    fields |= _present(duration_ms=_milliseconds(row), tools=row.get("tools"))
    if status == "completed":
        return "agent:execution:complete", fields | _present(result=row.get("result"))
    return "agent:execution:error", {**fields, "error": _error(status, row)}


def _of_c(status: str, row: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    metadata = row.get("metadata") or {}
    agent = row["agent"]
    councilor = str(metadata.get("councilor_id") or agent)
    task = metadata.get("task_name") or row.get("method") or row.get("step")
    common = _present(
        execution_id=row["id"],
        task_name=task,
        ts=row["updated_at"],
        display_name=metadata.get("display_name") or agent,
    )
    agents = {**common, "agent_id": agent}
    councilors = {**common, "councilor_id": councilor}
    if status == "running":
        yield "agent_execution_started", {**agents, "severity": "info"}
        yield "councilor_started", {**councilors, "severity": "info"}
        return
    success = status == "completed"
    ended = _present(
        success=success,
        severity="success" if success else "error",
        duration_ms=_milliseconds(row),
        result=row.get("result"),
        error=None if success else _error(status, row),
    )
    yield "agent_execution_completed", agents | ended
    yield "councilor_completed" if success else "councilor_error", councilors | ended
