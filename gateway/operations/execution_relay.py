"""Tells in the rooms what has changed of executions: each change once, in the order of its execution.

The store hands over what it commits, in the order of the commits. Each execution has a queue, from which one
change at a time is told, and tried again until the broker takes it; so on this node the order is that of the
queue. Between nodes the outbox keeps it: whoever commits a change gets all earlier ones that are not told, so
each queue begins where the room is, or before. What two nodes tell has one ``mid``, and the room has it once.

A queue that is too long or too old is dropped, and the execution is *held*: what is committed of it is not
queued, since it would overtake what was dropped, until the outbox gives all of it back.
"""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict, deque
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
    from gateway.store.executions import Entry, Executions, Handed

__all__ = ["Relay"]

log = structlog.get_logger(__name__)

_AT_ONCE: Final = 16
"""Executions of which a change is being told."""
_WAITING: Final = 4000
_WAITING_BYTES: Final = 32 * 2**20
_REMEMBERED: Final = 20_000
"""Executions of which is known up to where they are told, and of those that are held at most."""
_AGAIN: Final = 0.25
"""Seconds until what the broker refused is tried again."""
_ATTEMPTS: Final = 1000
_EVERY: Final = 2.0
"""Seconds between two looks for what nobody told."""


class _Queue:
    """What is to be told of one execution."""

    __slots__ = ("entries", "last")

    def __init__(self) -> None:
        self.entries: deque[tuple[float, Entry]] = deque()
        """Each with the time after which it is left to whoever claims it."""
        self.last = 0
        """The version that was queued last."""


class Relay:
    """Between the store and the rooms of one node."""

    def __init__(self, events: Events, vocabularies: Collection[str], *, lease: float) -> None:
        """``lease`` is ``store.lease``, in seconds."""
        self._events = events
        self._vocabularies = frozenset(vocabularies)
        self._patience = lease / 2
        self._every = min(_EVERY, lease / 2)
        self._ready = trio.open_memory_channel[int](math.inf)
        """Executions whose next change is to be told; each is in here, being told, or waiting to be."""
        self._queues: dict[int, _Queue] = {}
        self._told_up_to: OrderedDict[int, int] = OrderedDict()
        self._held: set[int] = set()
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
            for _ in range(_AT_ONCE):
                nursery.start_soon(self._work, executions, nursery)
            executions.tell = lambda entries, held: self._take(executions, entries, held)
            while True:
                with contextlib.suppress(ProtocolError):  # the store has logged why
                    while self._waiting < _WAITING // 2:
                        if not await executions.outbox.claim(lambda found: self._claimed(executions, found)):
                            break
                await trio.sleep(self._every)

    def _claimed(self, executions: Executions, handed: Handed) -> None:
        """All that is not told of some executions, but for those that are held."""
        for number in {entry.number for entry in handed.entries}:
            self._held.discard(number)
            self._drop(number)  # what is queued is among them
        self._take(executions, handed.entries, handed.held)

    def _take(self, executions: Executions, entries: Iterable[Entry], held: Collection[int]) -> None:
        until = trio.current_time() + self._patience
        known: list[Entry] = []
        for entry in entries:
            number = entry.number
            if entry.version <= self._told_up_to.get(number, 0):
                known.append(entry)
                continue
            if number in self._held:
                self._left += 1
                continue
            queue = self._queues.get(number)
            if queue is None:
                queue = self._queues[number] = _Queue()
                self._ready[0].send_nowait(number)
            elif entry.version <= queue.last:
                continue
            if self._waiting >= _WAITING or self._waiting_bytes + entry.size > _WAITING_BYTES:
                self._left += 1
                self._drop(number)
                self._hold([number])
                continue
            queue.last = entry.version
            queue.entries.append((until, entry))
            self._waiting += 1
            self._waiting_bytes += entry.size
        if known:
            executions.outbox.told(known)
        self._hold(held)

    def _hold(self, numbers: Iterable[int]) -> None:
        self._held.update(numbers)
        if len(self._held) > _REMEMBERED:  # rather out of order than without bound
            self._held.clear()

    def _drop(self, number: int) -> None:
        """Forget what is queued of an execution."""
        queue = self._queues.get(number)
        if queue is not None:
            self._waiting -= len(queue.entries)
            self._waiting_bytes -= sum(entry.size for _, entry in queue.entries)
            queue.entries.clear()
            queue.last = 0

    async def _work(self, executions: Executions, nursery: trio.Nursery) -> None:
        async for number in self._ready[1]:
            queue = self._queues[number]
            if not queue.entries:
                del self._queues[number]
                continue
            until, entry = queue.entries[0]
            known = entry.version <= self._told_up_to.get(number, 0)
            if trio.current_time() > until:
                self._left += len(queue.entries)
                self._drop(number)
                self._hold([number])
            elif known or await self._tell(entry):
                self._told += not known
                self._remember(number, entry.version)
                executions.outbox.told([entry])
                if queue.entries and queue.entries[0][1] is entry:  # not dropped meanwhile
                    queue.entries.popleft()
                    self._waiting -= 1
                    self._waiting_bytes -= entry.size
            else:
                nursery.start_soon(self._again, number)
                continue
            self._ready[0].send_nowait(number)

    async def _again(self, number: int) -> None:
        # Many fail together, when the broker is away; so many attempts a second are enough.
        await trio.sleep(max(_AGAIN, len(self._queues) / _ATTEMPTS))
        self._ready[0].send_nowait(number)

    def _remember(self, number: int, version: int) -> None:
        self._told_up_to[number] = max(version, self._told_up_to.get(number, 0))
        self._told_up_to.move_to_end(number)
        if len(self._told_up_to) > _REMEMBERED:
            self._told_up_to.popitem(last=False)

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
                log.error("a change of an execution cannot be published", mid=entry.mid, reason=error.message)

        async with trio.open_nursery() as nursery:
            for room, event, data in said:
                nursery.start_soon(publish, room, event, data)
        return all(outcomes)
