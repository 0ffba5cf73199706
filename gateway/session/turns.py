"""Awaited commands take turns as all others do: their time counts for their organisation."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any

import trio

from gateway.wire.shares import Share

__all__ = ["counted", "in_turn"]


async def in_turn(work: Coroutine[Any, Any, None], share: Share) -> None:
    """Await ``work``; what it takes of the processor counts for ``share``. Gives way once at least.

    A command that never waits (``stats`` of a thousand rooms) would otherwise be followed by the next one at
    once, and a client that sends hundreds of them would keep all others waiting.
    """
    if not await counted(work, share):
        await trio.lowlevel.checkpoint()


@coroutine
def counted(work: Coroutine[Any, Any, None], share: Share) -> Generator[Any, Any, bool]:
    """Await ``work``; what it takes counts for ``share``. Returns whether it has waited."""
    waited = False
    step: Any = work.send
    argument: Any = None
    while True:
        begun = time.perf_counter()
        try:
            trap = step(argument)
        except StopIteration:
            return waited
        finally:
            share.used += (time.perf_counter() - begun) / share.weight
        waited = True
        try:
            argument = yield trap
            step = work.send
        except BaseException as error:
            step, argument = work.throw, error
