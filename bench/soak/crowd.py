"""A part of the clients, in a process of its own: lines of JSON in, lines of JSON out.

One process would have to share one core among all of them. The first line says what there is; each further
one is a command with an ``id``, answered under it. What breaks a promise is said at once.
"""

from __future__ import annotations

import gc
import json
import logging
import resource
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import trio

from bench.soak.disturbances import churn, go_home
from bench.soak.listener import Listener, Tally
from bench.soak.plan import Plan
from bench.soak.route import View

__all__ = ["main"]

_LATE = 0.005
"""So large a part of them may still be on its way when the others begin."""
_CONNECTING = 0.02
"""Seconds between two clients at the beginning."""


class Crowd:
    """The clients of this process, and what can be asked of them."""

    def __init__(self, said: dict[str, Any]) -> None:
        self._plan = msgspec.convert(said["plan"], Plan)
        self._view = View.from_json(said["view"])
        self._share = 1 / said["of"]
        self._tally = Tally(tell=lambda text: _say({"fault": text}))
        self._listeners = [
            Listener(number, self._plan, self._view, self._tally)
            for number in range(said["number"], self._plan.connections, said["of"])
        ]
        self._churning = trio.CancelScope()
        self.commands: dict[str, Callable[[dict[str, Any], trio.Nursery], Awaitable[Any]]] = {
            "ready": self._ready,
            "start": self._start,
            "churn": self._churn,
            "calm": self._calm,
            "home": self._home,
            "behind": self._behind,
            "report": self._report,
        }

    async def _ready(self, command: dict[str, Any], nursery: trio.Nursery) -> None:
        for place in self._view.places:
            place.ready = command["ready"][place.name]

    async def _start(self, command: dict[str, Any], nursery: trio.Nursery) -> int:
        for listener in self._listeners:
            nursery.start_soon(listener.run)
            await trio.sleep(_CONNECTING)
        while len(late := self._late()) > _LATE * len(self._listeners):  # noqa: ASYNC110 - nobody says so
            await trio.sleep(0.5)
        for each in late:
            print(f"late: client {each.number} ({each.kind}): {each.stage}", file=sys.stderr, flush=True)
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 10, 10)
        return len(self._listeners)

    def _late(self) -> list[Listener]:
        return [each for each in self._listeners if each.client is None]

    async def _churn(self, command: dict[str, Any], nursery: trio.Nursery) -> None:
        async def run() -> None:
            with trio.CancelScope() as self._churning:
                await churn(self._plan, self._listeners, self._share)

        nursery.start_soon(run)

    async def _calm(self, command: dict[str, Any], nursery: trio.Nursery) -> None:
        self._churning.cancel()

    async def _home(self, command: dict[str, Any], nursery: trio.Nursery) -> None:
        await go_home(self._listeners)

    async def _behind(self, command: dict[str, Any], nursery: trio.Nursery) -> list[str]:
        """Who has not heard the last of what; slow readers read on meanwhile."""
        found = []
        for listener in self._listeners:
            for order in ("organisation", *listener.rooms):
                wanted, position = command["last"][listener.org].get(order), listener.books.position(order)
                if wanted is not None and position != tuple(wanted):
                    who = f"client {listener.number} ({listener.kind})"
                    found.append(f"{who}: {order}: {position}, not {wanted}")
        return found

    async def _report(self, command: dict[str, Any], nursery: trio.Nursery) -> dict[str, Any]:
        return {
            "connected": sum(each.client is not None for each in self._listeners),
            "events": self._tally.events,
            "broken": self._tally.broken,
            "lost": self._tally.lost,
            "done": self._tally.done,
            "refused": self._tally.refused,
        }


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


async def _serve(first: bytes, rest: bytes, stream: trio.abc.ReceiveStream) -> None:
    crowd = Crowd(json.loads(first))

    async def answer(command: dict[str, Any], nursery: trio.Nursery) -> None:
        answered = await crowd.commands[command["do"]](command, nursery)
        _say({"id": command["id"], "answer": answered})

    async with trio.open_nursery() as nursery:
        while True:
            *lines, rest = rest.split(b"\n")
            for line in lines:
                nursery.start_soon(answer, json.loads(line), nursery)
            chunk = await stream.receive_some()
            if not chunk:
                break
            rest += chunk
        nursery.cancel_scope.cancel()


async def main() -> None:
    """Serve commands until the input ends."""
    async with trio.lowlevel.FdStream(0) as stream:
        said = b""
        while b"\n" not in said:
            said += await stream.receive_some()
        first, _, rest = said.partition(b"\n")
        await _serve(first, rest, stream)


if __name__ == "__main__":
    logging.getLogger("gateway.client").setLevel(logging.ERROR)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.exit(trio.run(main))
