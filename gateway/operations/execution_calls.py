"""What clients may ask of executions over a socket, with ``call``: the same as by REST."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from gateway.calls.caller import Caller
from gateway.operations.executions import Executions, Start, Status
from protocol.data import read

__all__ = ["execution_call_handlers"]


class _Create(msgspec.Struct, forbid_unknown_fields=True):
    agent: str
    id: str | None = None
    team: str | None = None
    method: str | None = None
    status: Start = "queued"
    input: Any = None
    metadata: dict[str, Any] | None = None


class _Update(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    status: Status | None = None
    progress: float | None = None
    step: str | None = None
    tools: list[str] | None = None
    result: Any = None
    error: str | None = None
    version: int | None = None


class _One(msgspec.Struct, forbid_unknown_fields=True):
    id: str


class _Summary(msgspec.Struct, forbid_unknown_fields=True, rename={"first": "from", "until": "to"}):
    first: str | int | None = None
    until: str | int | None = None
    agent: str | None = None
    team: str | None = None
    method: str | None = None
    status: Status | None = None


class _List(_Summary, forbid_unknown_fields=True, rename={"first": "from", "until": "to"}):
    limit: int = 50
    cursor: str | None = None


def execution_call_handlers(executions: Executions) -> dict[str, Callable[[Caller, Any], Awaitable[Any]]]:
    """Name → handler; none where nothing is kept."""
    if not executions.inbox.enabled:
        return {}

    async def create(caller: Caller, data: Any) -> Any:
        return await executions.create(caller.identity, **msgspec.structs.asdict(read(data, _Create)))

    async def update(caller: Caller, data: Any) -> Any:
        return await executions.update(caller.identity, **msgspec.structs.asdict(read(data, _Update)))

    async def get(caller: Caller, data: Any) -> Any:
        return await executions.get(caller.identity, read(data, _One).id)

    async def find(caller: Caller, data: Any) -> Any:
        return await executions.list(caller.identity, **msgspec.structs.asdict(read(data, _List)))

    async def summary(caller: Caller, data: Any) -> Any:
        return await executions.summary(caller.identity, **msgspec.structs.asdict(read(data, _Summary)))

    return {
        "executions.create": create,
        "executions.update": update,
        "executions.get": get,
        "executions.list": find,
        "executions.summary": summary,
    }
