"""What happens to clients all the time, and to the node ``b`` at three moments."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Sequence

import trio

from bench.soak.listener import Listener
from bench.soak.plan import Plan

__all__ = ["AWAY", "EVENTS", "churn", "go_home"]

EVENTS: tuple[tuple[float, signal.Signals], ...] = (
    (0.08, signal.SIGKILL),
    (0.20, signal.SIGTERM),
    (0.32, signal.SIGKILL),
)
"""When the node is ended, as part of the run, and how: killed, drained as by a release, killed."""
AWAY = 3.0
"""Seconds until its successor starts."""
_HOMEWARD = 0.05
"""Seconds between two clients that are sent back to where they belong."""


async def churn(plan: Plan, listeners: Sequence[Listener], share: float) -> None:
    """Move, cut, end and kill these, a share of all clients, at steady rates until cancelled."""
    dice = random.Random(1)

    async def at(rate: float, act: Callable[[Listener], None]) -> None:
        while True:
            await trio.sleep(1 / (rate * share))
            act(dice.choice(listeners))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(at, plan.moves, lambda each: nursery.start_soon(each.move))
        nursery.start_soon(at, plan.cuts, Listener.cut)
        nursery.start_soon(at, plan.ends, lambda each: each.end(killed=False))
        nursery.start_soon(at, plan.deaths, lambda each: each.end(killed=True))


async def go_home(listeners: Sequence[Listener]) -> None:
    """Cut the connections of those who are at the other node."""
    for each in listeners:
        if each.route.away:
            each.cut()
            await trio.sleep(_HOMEWARD)
