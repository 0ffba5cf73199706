"""The events of other systems that say the same of an execution, so that their pages need no change. Pure.

Vocabulary ``a`` has ``agent:execution:start``, ``:complete`` and ``:error``; ``c`` has
``agent_execution_started`` and ``_completed``, and ``councilor_started``, ``_completed`` and ``_error``. Each
event has the fields of the catalogue (``protocol.events``), which are those that the systems themselves send.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final

__all__ = ["translations"]

_LONGEST: Final = 200
"""Characters of an id or a name in the catalogue."""


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


def _named(row: dict[str, Any], field: str) -> str | None:
    """What the application's metadata say, as far as it is a name or an id."""
    found = (row.get("metadata") or {}).get(field)
    return found if isinstance(found, str) and 1 <= len(found) <= _LONGEST else None


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
        task_id=_named(row, "task_id"),
    )
    if status == "running":
        return "agent:execution:start", fields
    fields |= _present(duration_ms=_milliseconds(row), tools=row.get("tools"))
    if status == "completed":
        return "agent:execution:complete", fields | _present(result=row.get("result"))
    return "agent:execution:error", {**fields, "error": _error(status, row)}


def _of_c(status: str, row: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    agent = row["agent"]
    common = _present(
        execution_id=row["id"],
        task_name=_named(row, "task_name") or row.get("method") or row.get("step"),
        ts=row["updated_at"],
        display_name=_named(row, "display_name") or agent,
    )
    agents = {**common, "agent_id": agent}
    councilors = {**common, "councilor_id": _named(row, "councilor_id") or agent}
    if status == "running":
        yield "agent_execution_started", {**agents, "severity": "info"}
        yield "councilor_started", {**councilors, "severity": "info"}
        return
    success = status == "completed"
    ended = _present(
        success=success,
        severity="success" if success else "error",
        duration_ms=_milliseconds(row),
        error=None if success else _error(status, row),
    )
    result = _present(result=row.get("result"))
    yield "agent_execution_completed", agents | ended | result
    if success:
        yield "councilor_completed", councilors | ended | result
    else:
        yield "councilor_error", councilors | ended
