"""The steps of a change on its way through a node, and a node that dies at one of them.

``arm`` patches the classes in this process, which is a fork with nothing else to do: at the ``nth`` time that
a change reaches ``step``, the process ends itself with SIGKILL.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import wraps
from typing import Any, Final

__all__ = ["CALL", "CHANGE", "SETTLED", "arm"]

CHANGE: Final = (
    "taken",
    "in the transaction",
    "committed",
    "handed over",
    "told in part",
    "told",
    "being forgotten",
    "forgotten",
    "to be answered",
)
"""Of a change that somebody asks for: from the queue of the writer to the answer."""
SETTLED: Final = CHANGE[:-1]
"""Of what a node does by itself: a deadline, the end of a stale execution."""
CALL: Final = ("accepted", "forwarded", "answered")
"""Of a call: before it is forwarded; while the backend has it, when the node is killed from outside; and
between the backend's answer and the reply."""

_CHANGES: Final = {"apply", "create", "decide", "settle"}
_Steps = Callable[[str], None]


def arm(step: str, nth: int) -> None:
    """Die at the ``nth`` time."""
    left = [nth]

    def at(reached: str) -> None:
        if reached == step:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    _store(at)
    _node(at)


def _store(at: _Steps) -> None:
    from gateway.store.database import Database
    from gateway.store.writer import Writer

    attempt, transaction = Writer._attempt, Database.transaction
    kinds: set[str] = set()

    @wraps(attempt)
    def attempting(self: Writer, group: Any) -> Any:
        kinds.clear()
        kinds.update(job.work.__name__ for job in group)
        if kinds & _CHANGES:
            at("taken")
        if "_forget" in kinds:
            at("being forgotten")
        failed = attempt(self, group)
        if kinds & _CHANGES:
            at("committed")
        if "_forget" in kinds:
            at("forgotten")
        return failed

    @wraps(transaction)
    def transacting(self: Database, works: Any) -> Any:
        watched = [lambda connection: at("in the transaction")] if kinds & _CHANGES else []
        return transaction(self, [*works, *watched])

    Writer._attempt = attempting  # type: ignore[method-assign]
    Database.transaction = transacting  # type: ignore[method-assign]


def _node(at: _Steps) -> None:
    from gateway.calls.backend import Backend
    from gateway.operations.approvals import Approvals
    from gateway.operations.events import Events
    from gateway.operations.execution_relay import Relay
    from gateway.operations.executions import Executions
    from gateway.operations.inbox import Inbox
    from gateway.store.executions.outbox import ExecutionOutbox
    from gateway.store.outbox import Outbox

    def patch(kind: Any, name: str, *, before: str = "", after: str = "") -> None:
        original = getattr(kind, name)

        @wraps(original)
        async def asynchronous(*arguments: Any, **named: Any) -> Any:
            if before:
                at(before)
            found = await original(*arguments, **named)
            if after:
                at(after)
            return found

        @wraps(original)
        def plain(*arguments: Any) -> Any:
            if any(isinstance(each, list | tuple) and each for each in arguments):  # not nothing
                at(before)
            return original(*arguments)

        setattr(kind, name, asynchronous if original.__code__.co_flags & 0x80 else plain)

    patch(Relay, "_take", before="handed over")
    patch(Inbox, "deliver", before="handed over")
    patch(Events, "publish", after="told in part")
    patch(Events, "tell", after="told in part")
    patch(ExecutionOutbox, "told", before="told")
    patch(Outbox, "done", before="told")
    for kind, names in ((Executions, ("create", "update")), (Approvals, ("create", "decide"))):
        for name in names:
            patch(kind, name, after="to be answered")
    patch(Backend, "invoke", before="accepted")
    patch(Backend, "_post", after="answered")
