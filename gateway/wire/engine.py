"""What all connections of a node share to read, write, keep time and be woken: a task for each of these."""

from __future__ import annotations

import trio

from gateway.wire.flusher import Flusher
from gateway.wire.pump import Pump
from gateway.wire.timers import Timers
from gateway.wire.wakes import Wakes

__all__ = ["Engine"]


class Engine:
    """The pump reads, the flusher writes, the timers keep time, and the wakes wake many tasks in turns."""

    def __init__(self, *, pump: bool = True) -> None:
        """Without a ``pump`` each reader waits for its own socket, as where there is no epoll."""
        self.flusher = Flusher()
        self.pump = Pump.create(self.flusher) if pump else None
        self.timers = Timers()
        self.wakes = Wakes()

    def census(self) -> dict[str, int]:
        """Count what they hold now.

        ``sockets`` are watched, ``timers`` armed, ``waiting`` shares and outboxes have something to send,
        ``slots`` of the counters are in use.
        """
        flusher = self.flusher
        share = flusher.share
        return {
            "sockets": 0 if self.pump is None else len(self.pump),
            "timers": len(self.timers),
            "waiting": len(flusher.active) + len(share.dirty) + len(share.slow),
            "slots": flusher.tally.used,
        }

    async def run(self) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.flusher.run)
            nursery.start_soon(self.timers.run)
            nursery.start_soon(self.wakes.run)
            if self.pump is not None:
                nursery.start_soon(self.pump.run)
