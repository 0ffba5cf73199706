"""One client of a soak: where it is, what it hears, and whether every number came once and in order."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import trio

from bench.soak.plan import ORGANISATIONS, ROOMS, Plan
from bench.soak.route import Route, View
from gateway.client import Backoff, Client, ClientClosed, ClientError, Event, Lost, connect

__all__ = ["BACKOFF", "PATIENT", "Books", "Listener", "Tally"]

BACKOFF = Backoff(base=4.0, maximum=8.0, tries=None)
PATIENT: dict[str, Any] = dict.fromkeys(
    ("connect_timeout", "command_timeout", "heartbeat", "heartbeat_timeout"), 30.0
)
"""On a machine that does other things as well, giving up soon would only make more work."""
_OVERFLOW: tuple[Literal["replay", "drop_oldest", "conflate", "disconnect"], ...] = (
    "replay", "drop_oldest", "conflate", "disconnect",
)  # fmt: skip
_SHOWN = 20


@dataclass
class Tally:
    """What all clients count together."""

    events: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    """Events that were announced as lost, by reason."""
    done: Counter[str] = field(default_factory=Counter)
    """Joins, cuts and so on."""
    refused: Counter[str] = field(default_factory=Counter)
    """Commands that failed, by error; they are repeated."""
    broken: int = 0
    """Promises."""
    tell: Callable[[str], None] = print
    """Told of the first of them."""

    def fault(self, text: str) -> None:
        """A promise was broken."""
        self.broken += 1
        if self.broken <= _SHOWN:
            self.tell(text)


@dataclass
class _Place:
    epoch: str
    seq: int
    ahead: int | None = None
    """The publisher's own number minus ``seq``: one publisher, and every event counted once."""


class Books:
    """Where one life of a client stands in each order."""

    def __init__(self, name: str, tally: Tally) -> None:
        self._name = name
        self._tally = tally
        self._places: dict[str, _Place] = {}

    def begin(self, order: str, epoch: str, seq: int) -> None:
        """What follows ``seq`` is heard from here on; some of it may have been already."""
        self._places.setdefault(order, _Place(epoch, seq))

    def forget(self, order: str) -> None:
        """It is no longer heard."""
        self._places.pop(order, None)

    def position(self, order: str) -> tuple[str, int] | None:
        """The number up to which everything came or was announced as lost."""
        place = self._places.get(order)
        return None if place is None else (place.epoch, place.seq)

    def note(self, event: Event) -> None:
        """Check what came."""
        order = event.room or event.to or "organisation"
        place = self._places.get(order)
        if isinstance(event, Lost):
            self._lost(order, place, event)
            return
        if event.seq is None or event.epoch is None:
            self._tally.fault(f"{self._name}: {order}: an event without a number")
            return
        self._tally.events += 1
        ahead = event.data["n"] - event.seq
        if place is None:
            self._places[order] = _Place(event.epoch, event.seq, ahead)
            return
        # Asked where it began, a client that has been reconnected meanwhile tells of the later connection.
        began = place.ahead is None and event.epoch == place.epoch and event.seq <= place.seq
        if not began and (event.epoch, event.seq) != (place.epoch, place.seq + 1):
            what = "came again" if event.seq <= place.seq and event.epoch == place.epoch else "a gap"
            self._tally.fault(f"{self._name}: {order}: {what}: {place} → {event.epoch}:{event.seq}")
        if order != "user" and place.ahead not in (None, ahead):
            self._tally.fault(f"{self._name}: {order}: another event at {event.seq}: {place.ahead} → {ahead}")
        place.epoch, place.seq, place.ahead = event.epoch, event.seq, ahead

    def _lost(self, order: str, place: _Place | None, event: Lost) -> None:
        if event.to_seq is None:
            self._tally.lost[event.reason] += 1
            self._places.pop(order, None)
            return
        self._tally.lost[event.reason] += event.to_seq - event.from_seq + 1
        if place is None:
            return
        if event.epoch != place.epoch or event.from_seq != place.seq + 1:
            said = f"{event.epoch}:{event.from_seq}-{event.to_seq}"
            self._tally.fault(f"{self._name}: {order}: lost {said} at {place}")
        place.seq = event.to_seq


class Listener:
    """One of the clients, in one life after the other."""

    def __init__(self, number: int, plan: Plan, view: View, tally: Tally) -> None:
        self.number = number
        self.home = view.places[number % 2]
        self.org = f"org{number // 2 % ORGANISATIONS}"
        self.user = f"u{number // (2 * ORGANISATIONS)}"
        self._view = view
        self._tally = tally
        self._dice = random.Random(number)
        what = self._dice.random()  # the same in every run
        self.slow = what < plan.slow
        streams, polls = plan.slow + plan.streams, plan.slow + plan.streams + plan.polls
        self.kind: Literal["websocket", "sse", "poll"] = "websocket"
        if not self.slow and what < polls:
            self.kind = "sse" if what < streams else "poll"
        self.route = Route(view, self.home, buffer=4096 if self.slow else 0)
        self.books = Books("", tally)
        self.rooms: list[str] = []
        self.client: Client | None = None
        self._scope = trio.CancelScope()
        self.life = 0
        self.moving = False
        self.stage = ""
        """What it does, until it is in its rooms."""

    async def run(self) -> None:
        """Live, and again, until cancelled."""
        while True:
            self.life += 1
            try:
                await self._live()
            except ClientError as error:
                self._tally.done[f"lives ended by {type(error).__name__}"] += 1
            self.client = None
            await trio.sleep(0.1)

    async def _live(self) -> None:
        self.books = Books(f"client {self.number}.{self.life} ({self.kind})", self._tally)
        self.stage = "connects"
        token = self._view.token(self.org, self.user)
        options: dict[str, Any] = {"transports": [self.kind]}
        if self.kind == "websocket":
            options["dial"] = self.route.dial
        else:
            options["http"] = self.route.http()
        async with connect(
            "ws://127.0.0.1/ws",
            token=token,
            reconnect=BACKOFF,
            buffer=16,
            window=0,
            **PATIENT,
            **options,
        ) as client:
            for order, place in client.connection.positions.items():
                self.books.begin(order, place.epoch, place.seq)
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                nursery.start_soon(self._hear, client)
                rooms: list[str] = []
                self.rooms = rooms
                if self.slow:
                    await self._join(client, rooms, "busy")
                await self._join(client, rooms, f"room{self.number // (2 * ORGANISATIONS) % ROOMS}")
                await self._join(client, rooms, self._another(rooms))
                self.client = client
                if self.slow:
                    await self._stall()

    def _another(self, rooms: list[str]) -> str:
        while (room := f"room{self._dice.randrange(ROOMS)}") in rooms:
            pass
        return room

    async def _hear(self, client: Client) -> None:
        async for event in client:
            if event.room is None or event.room in self.rooms:
                self.books.note(event)

    async def _join(self, client: Client, rooms: list[str], room: str) -> None:
        """Try until it succeeds, or the client's life is over; ``rooms`` are those of that life."""
        overflow = _OVERFLOW[self.number % len(_OVERFLOW)] if room == "busy" else None
        rooms.append(room)
        self.stage = f"joins {room}"
        books = self.books
        while True:
            try:
                joined = await client.join(room, overflow=overflow)
            except ClientClosed:
                return
            except ClientError as error:
                self.stage = f"joins {room} after {error!r}"
                self._tally.refused[f"join: {type(error).__name__}"] += 1
                await trio.sleep(0.5)
                continue
            books.begin(room, joined.epoch, joined.seq)
            return

    async def _stall(self) -> None:
        """Read for a while, then not, and again."""
        while True:
            await trio.sleep(self._dice.uniform(20, 40))
            self.route.reading = trio.Event()
            if self.route.wire is not None:
                self.route.wire.reading = self.route.reading
            self._tally.done["stalls"] += 1
            await trio.sleep(self._dice.uniform(10, 20))
            self.route.reading.set()

    async def move(self) -> None:
        """Leave a room and join another."""
        client, rooms, books = self.client, self.rooms, self.books
        if client is None or self.moving:
            return
        room = rooms[-1]
        self.moving = True
        try:
            await self._move(client, rooms, books, room)
        finally:
            self.moving = False

    async def _move(self, client: Client, rooms: list[str], books: Books, room: str) -> None:
        try:
            await client.leave(room)
        except ClientError as error:
            self._tally.refused[f"leave: {type(error).__name__}"] += 1
            return
        if self.client is not client:
            return  # it was ended meanwhile
        rooms.remove(room)
        books.forget(room)
        await self._join(client, rooms, self._another(rooms))
        self._tally.done["moves"] += 1

    def cut(self) -> None:
        """Its connection breaks; over HTTP, where the next request would find its way, it begins anew."""
        self._tally.done["cuts"] += 1
        if self.kind != "websocket":
            self._scope.cancel()
        elif self.route.wire is not None:
            self.route.wire.cut(reset=self._dice.random() < 0.5)

    def end(self, *, killed: bool) -> None:
        """A new client takes its place; a killed one says nothing to the gateway."""
        self._tally.done["killed clients" if killed else "ended clients"] += 1
        if killed and self.kind == "websocket" and self.route.wire is not None:
            self.route.wire.cut(reset=True)
        self._scope.cancel()
