"""Tells in the rooms what has changed of executions: each change once, in the order of its execution.

The store hands over what it commits, in the order of the commits, and each execution has its lane, so this
node tells its changes in order. A change that could not be told (the broker is away, too much waits) is left:
then the later ones of its execution are left as well, until the outbox gives all of them back in order.
Between nodes the outbox keeps the order: one node at a time has the untold changes of an execution.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from gateway.operations.events import Events
from gateway.operations.execution_rooms import ALL, UPDATED, room_of
from gateway.operations.execution_vocabularies import translations
from gateway.operations.rules import service
from protocol.errors import ProtocolError

if TYPE_CHECKING:
    from gateway.store import Store
    from gateway.store.executions import Entry, Executions

__all__ = ["Relay"]

log = structlog.get_logger(__name__)

_LANES: Final = 16
_WAITING: Final = 4000
_WAITING_BYTES: Final = 32 * 2**20
_BEHIND: Final = 20_000
"""Executions of which a change was left. Of more the order is given up."""
_FRESH: Final = 1.0
"""Seconds after its commit in which a change is told without asking again whether it is still this node's."""
_EVERY: Final = 2.0
"""Seconds between two looks for what was left."""


class Relay:
    """Between the store and the rooms of one node."""

    def __init__(self, events: Events, vocabularies: Collection[str], *, lease: float) -> None:
        """``lease`` is ``store.lease``, in seconds."""
        self._events = events
        self._vocabularies = frozenset(vocabularies)
        self._fresh = min(_FRESH, lease / 2)
        self._every = min(_EVERY, lease / 2)
        self._lanes = [trio.open_memory_channel[tuple[float, "Entry"]](math.inf) for _ in range(_LANES)]
        self._behind: dict[int, int] = {}
        """Execution → the oldest version of it that is not told, where one was left."""
        self._waiting = 0
        self._waiting_bytes = 0
        self._told = 0
        self._left = 0

    def measures(self) -> dict[str, tuple[str, float]]:
        """For the metrics: name → what it is, and its value now; a name in ``_total`` is a counter's."""
        return {
            "executions_waiting": ("Committed changes of executions that wait to be told", self._waiting),
            "executions_waiting_bytes": ("Bytes of the changes that wait", self._waiting_bytes),
            "executions_told_total": ("Changes of executions told by this node", self._told),
            "executions_left_total": ("Changes of executions left to a later attempt", self._left),
        }

    async def run(self, store: Store) -> None:
        """Tell until cancelled."""
        executions = store.executions
        async with trio.open_nursery() as nursery:
            for _, lane in self._lanes:
                nursery.start_soon(self._tell_from, lane, executions)
            executions.tell = lambda entries: self._take(executions, entries)
            while True:
                try:
                    while self._waiting < _WAITING // 2:
                        if not await executions.outbox.claim(lambda found: self._claimed(executions, found)):
                            break
                except ProtocolError:
                    pass  # the store has logged why, and the next look is soon
                await trio.sleep(self._every)

    def _claimed(self, executions: Executions, entries: list[Entry]) -> None:
        oldest: dict[int, int] = {}
        for entry in entries:
            oldest.setdefault(entry.number, entry.version)
        for number, version in oldest.items():
            if number in self._behind:
                self._behind[number] = version
        self._take(executions, entries)

    def _take(self, executions: Executions, entries: Iterable[Entry]) -> None:
        until = trio.current_time() + self._fresh
        for entry in entries:
            if self._waiting >= _WAITING or self._waiting_bytes + entry.size > _WAITING_BYTES:
                self._leave(executions, entry)
                continue
            self._waiting += 1
            self._waiting_bytes += entry.size
            self._lanes[entry.number % _LANES][0].send_nowait((until, entry))

    def _leave(self, executions: Executions, entry: Entry) -> None:
        self._left += 1
        if len(self._behind) >= _BEHIND:
            self._behind.clear()
        self._behind[entry.number] = min(entry.version, self._behind.get(entry.number, entry.version))
        executions.outbox.let_go([entry.number])

    async def _tell_from(
        self, lane: trio.MemoryReceiveChannel[tuple[float, Entry]], executions: Executions
    ) -> None:
        async for until, entry in lane:
            try:
                oldest = self._behind.get(entry.number, entry.version)
                if entry.version > oldest or trio.current_time() > until or not await self._tell(entry):
                    self._leave(executions, entry)
                    continue
                self._told += 1
                if entry.version >= self._behind.get(entry.number, entry.version):
                    self._behind.pop(entry.number, None)
                executions.outbox.told([entry])
            finally:
                self._waiting -= 1
                self._waiting_bytes -= entry.size

    async def _tell(self, entry: Entry) -> bool:
        """Whether nothing is left to do; False when it must be tried again."""
        row = entry.row
        said: list[tuple[str | None, str, dict[str, Any]]] = [
            (room_of(row["id"]), UPDATED, row),
            (ALL, UPDATED, row),
        ]
        said += [(None, event, data) for event, data in translations(self._vocabularies, entry.was, row)]
        outcomes: list[bool] = []

        async def publish(room: str | None, event: str, data: dict[str, Any]) -> None:
            try:
                await self._events.publish(service(entry.org), room, event, data, mid=f"{entry.mid}-{event}")
            except ProtocolError as error:
                if 300 <= error.code < 400:
                    outcomes.append(False)
                    return
                # To try again would never help. The execution itself can be read.
                log.error("a change of an execution cannot be told", mid=entry.mid, reason=error.message)

        async with trio.open_nursery() as nursery:
            for room, event, data in said:
                nursery.start_soon(publish, room, event, data)
        return all(outcomes)
