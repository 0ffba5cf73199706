"""The bodies of requests and answers about executions."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from gateway.operations.executions import (
    MAX_DAYS,
    MAX_ID,
    MAX_NAME,
    MAX_PAGE,
    MAX_STEP,
    MAX_TOOLS,
    Start,
    Status,
)
from gateway.rest.models import Body, Cursor, Milliseconds, Org, Problem

__all__ = [
    "Execution",
    "ExecutionConflict",
    "ExecutionCreation",
    "ExecutionDetails",
    "ExecutionFilter",
    "ExecutionPage",
    "ExecutionPatch",
    "ExecutionQuery",
    "ExecutionSummary",
]

Id = Annotated[
    str,
    msgspec.Meta(description=f"1 to {MAX_ID} bytes without `/`, `*` and control characters; unique here."),
]
Name = Annotated[str, msgspec.Meta(description=f"1 to {MAX_NAME} characters.")]
Progress = Annotated[float, msgspec.Meta(description="0 to 100.")]
Step = Annotated[str, msgspec.Meta(description=f"The present step; 1 to {MAX_STEP} characters.")]
Tools = Annotated[list[str], msgspec.Meta(description=f"All tools used so far; at most {MAX_TOOLS}.")]
Seconds = Annotated[float, msgspec.Meta(description="Seconds.")]
Version = Annotated[int, msgspec.Meta(description="Counts the changes, from 1.")]
Error = Annotated[str, msgspec.Meta(description="At most `executions.error_bytes`.")]


class ExecutionCreation(Body, omit_defaults=True):
    """An execution that begins, or will."""

    agent: Name
    id: Annotated[str, msgspec.Meta(description="Generated when absent.")] | None = None
    team: Name | None = None
    method: Name | None = None
    status: Start = "queued"
    input: Annotated[Any, msgspec.Meta(description="At most `executions.input_bytes` of JSON.")] | None = None
    metadata: (
        Annotated[
            dict[str, Any],
            msgspec.Meta(description="A free map; at most `executions.metadata_bytes` of JSON."),
        ]
        | None
    ) = None
    org: Org | None = None


class ExecutionPatch(Body, omit_defaults=True):
    """What has changed; without a field it is a heartbeat."""

    status: (
        Annotated[
            Status,
            msgspec.Meta(
                description="`queued` → `running` → `completed`, `failed` or `cancelled`; otherwise 409."
            ),
        ]
        | None
    ) = None
    progress: Progress | None = None
    step: Step | None = None
    tools: Tools | None = None
    result: Annotated[Any, msgspec.Meta(description="At most `executions.result_bytes` of JSON.")] | None = (
        None
    )
    error: Error | None = None
    version: (
        Annotated[int, msgspec.Meta(description="The version that it must have at present; otherwise 409.")]
        | None
    ) = None
    org: Org | None = None


class Execution(msgspec.Struct, omit_defaults=True):
    """One execution; the same row is the data of `execution:updated`."""

    id: Id
    agent: Name
    status: Status
    version: Version
    created_at: Milliseconds
    updated_at: Annotated[int, msgspec.Meta(ge=0, description="Of the latest version; ms since 1970 UTC.")]
    team: Name | None = None
    method: Name | None = None
    progress: Progress | None = None
    step: Step | None = None
    tools: Tools | None = None
    input: Any = None
    metadata: dict[str, Any] | None = None
    result: Any = None
    error: Error | None = None
    started_at: Milliseconds | None = None
    finished_at: Milliseconds | None = None
    duration: Annotated[float, msgspec.Meta(description="From start to end, in seconds.")] | None = None


class ExecutionUpdate(msgspec.Struct, omit_defaults=True):
    """One change: the values of what is small, and the names of what else has changed."""

    version: Version
    at: Milliseconds
    by: Annotated[str, msgspec.Meta(description="The user of the reporter's token.")] | None = None
    status: Status | None = None
    progress: Progress | None = None
    step: Step | None = None
    changed: (
        Annotated[list[str], msgspec.Meta(description="Those of `tools`, `result` and `error` that changed.")]
        | None
    ) = None


class ExecutionDetails(Execution, kw_only=True):
    """One execution with its timeline."""

    updates: Annotated[
        list[ExecutionUpdate],
        msgspec.Meta(description="Oldest first; the latest ones, at most `executions.updates_bytes`."),
    ]


class ExecutionConflict(Problem, kw_only=True):
    """A problem document (RFC 9457) with the execution as it is."""

    execution: Execution


class ExecutionPage(msgspec.Struct, omit_defaults=True):
    """Executions, the newest first."""

    executions: list[Execution]
    next: Cursor | None = None


class ExecutionFilter(msgspec.Struct, rename={"first": "from", "until": "to"}):
    first: (
        Annotated[
            str,
            msgspec.Meta(
                description="Created then or later: a UTC day (`2026-11-27`), RFC 3339, or ms since 1970."
            ),
        ]
        | None
    ) = None
    until: Annotated[str, msgspec.Meta(description="Created before, or on that day; as `from`.")] | None = (
        None
    )
    agent: Name | None = None
    team: Name | None = None
    method: Name | None = None
    status: Status | None = None
    org: Org | None = None


class ExecutionQuery(ExecutionFilter, rename={"first": "from", "until": "to"}):
    limit: Annotated[
        int, msgspec.Meta(ge=1, le=MAX_PAGE, description="Largest number of entries in one page.")
    ] = 50
    cursor: Cursor | None = None


class ExecutionDurations(msgspec.Struct):
    """In seconds, of those that were started and have ended; null without any."""

    average: Seconds | None
    p50: (
        Annotated[
            float,
            msgspec.Meta(
                description="Exact for few executions; otherwise off by some 1 % (`docs/executions.md`)."
            ),
        ]
        | None
    )
    p95: Seconds | None


class ExecutionsByStatus(msgspec.Struct):
    queued: int
    running: int
    completed: int
    failed: int
    cancelled: int


class ExecutionDay(msgspec.Struct):
    """Of the executions created on one UTC day."""

    day: Annotated[str, msgspec.Meta(description="`2026-11-27`.")]
    total: int
    completed: int
    failed: int


class ExecutionSummary(msgspec.Struct):
    """Of the last 30 days, or of those that are named."""

    total: int
    by_status: ExecutionsByStatus
    success_rate: (
        Annotated[
            float,
            msgspec.Meta(
                description="Share of completed among completed and failed, 0 to 1; null if there are none."
            ),
        ]
        | None
    )
    duration: ExecutionDurations
    series: Annotated[
        list[ExecutionDay], msgspec.Meta(description=f"Every day, at most {MAX_DAYS + 1}, oldest first.")
    ]
