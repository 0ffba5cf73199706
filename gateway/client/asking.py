"""Asking people for an approval, and waiting for their decision over whatever happens to the connection."""

from __future__ import annotations

from typing import Any, Final, Protocol

import anyio
import msgspec

from gateway.client.backoff import Backoff
from gateway.client.errors import CommandError, CommandFailed, CommandTimeout, UnexpectedReply
from gateway.client.messages import Decision
from protocol.envelope import Envelope

__all__ = ["ask"]

_WAIT: Final = 25.0
"""Seconds for which the gateway is asked to wait at a time."""
_PENDING: Final = "pending"


class Caller(Protocol):
    """Carries out a command; see :class:`~gateway.client.session.Session`."""

    async def command(self, fields: dict[str, Any], *, timeout: float | None = None) -> Envelope:
        """Once, although the connection may be lost meanwhile."""


async def ask(caller: Caller, wanted: dict[str, Any], *, timeout: float) -> Decision:
    """Have ``wanted`` created, which names its ``id``, and wait until it is decided or over.

    A command has ``timeout`` seconds, and is repeated for as long as the gateway cannot be asked: the id
    makes that safe. Raises CommandError for what another try cannot change, and Disconnected.
    """
    approval = await _insist(caller, "approvals.create", wanted, timeout)
    while approval.get("status") == _PENDING:
        approval = await _insist(
            caller, "approvals.get", {"id": wanted["id"], "wait": _WAIT}, timeout + _WAIT
        )
    decision = approval.get("decision") or {}
    try:
        return msgspec.convert({**decision, "id": wanted["id"], "status": approval.get("status")}, Decision)
    except msgspec.ValidationError as error:
        raise UnexpectedReply(str(error)) from error


async def _insist(caller: Caller, name: str, data: dict[str, Any], timeout: float) -> dict[str, Any]:
    policy = Backoff()
    failures = 0
    while True:
        try:
            reply = await caller.command({"t": "call", "event": name, "data": data}, timeout=timeout)
        except CommandFailed as error:
            if not _for_now(error):
                raise
            failures += 1
            retry_after = error.retry_after if isinstance(error, CommandError) else None
            await anyio.sleep(policy.delay(failures, retry_after))
        else:
            if not isinstance(reply.data, dict):
                raise UnexpectedReply(f"{name}: the reply is not an approval")
            return reply.data


def _for_now(error: CommandFailed) -> bool:
    if isinstance(error, CommandError):
        return 300 <= error.code < 400
    return isinstance(error, CommandTimeout)
