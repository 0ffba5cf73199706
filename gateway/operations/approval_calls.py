"""What clients may ask of approvals over a socket, with ``call``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from gateway.calls.caller import Caller
from gateway.operations.approvals import CHOICES, MAX_WAIT, Approvals, Status
from protocol.data import read
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["approval_calls"]


class _Create(msgspec.Struct, forbid_unknown_fields=True):
    title: str
    users: list[str] | None = None
    role: str | None = None
    id: str | None = None
    message: str | None = None
    data: Any = None
    choices: list[str] | None = None
    deadline: float | None = None
    fallback: str | None = None
    execution: str | None = None
    task: str | None = None


class _Get(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    wait: float = 0.0
    audit: bool = False


class _List(msgspec.Struct, forbid_unknown_fields=True):
    status: Status | None = None
    user: str | None = None
    limit: int = 50
    cursor: str | None = None


class _Decide(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    choice: str
    comment: str | None = None


def approval_calls(
    approvals: Approvals, *, within: float
) -> dict[str, Callable[[Caller, Any], Awaitable[Any]]]:
    """Name → handler; none where there is no database.

    ``approvals.get`` waits for ``within`` seconds at most, before the call itself is given up.
    """
    if not approvals.enabled:
        return {}

    async def create(caller: Caller, data: Any) -> Any:
        asked = read(data, _Create)
        return await approvals.create(
            caller.identity,
            title=asked.title,
            users=asked.users,
            role=asked.role,
            id=asked.id,
            message=asked.message,
            data=asked.data,
            choices=CHOICES if asked.choices is None else asked.choices,
            deadline=asked.deadline,
            fallback=asked.fallback,
            execution=asked.execution,
            task=asked.task,
            address=caller.address,
            connection=caller.connection,
        )

    async def get(caller: Caller, data: Any) -> Any:
        asked = read(data, _Get)
        if not 0 <= asked.wait <= MAX_WAIT:
            raise ProtocolError(ErrorCode.BAD_FIELD, f"data: wait must be from 0 to {MAX_WAIT:g} seconds")
        return await approvals.get(caller.identity, asked.id, wait=min(asked.wait, within), audit=asked.audit)

    async def find(caller: Caller, data: Any) -> Any:
        asked = read(data, _List)
        return await approvals.list(
            caller.identity, status=asked.status, user=asked.user, limit=asked.limit, cursor=asked.cursor
        )

    async def decide(caller: Caller, data: Any) -> Any:
        asked = read(data, _Decide)
        return await approvals.decide(
            caller.identity,
            asked.id,
            choice=asked.choice,
            comment=asked.comment,
            address=caller.address,
            connection=caller.connection,
        )

    return {
        "approvals.create": create,
        "approvals.get": get,
        "approvals.list": find,
        "approvals.decide": decide,
    }
