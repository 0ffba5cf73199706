"""Publishers that never pause, watchers that check every number, and the books that say what was promised.

A *publisher* sends the next message as soon as the last one has its place. What is refused or not answered
it repeats with the same message id, after ``retry_after``; when its connection ends it goes on with
another node.

A *watcher* is in the room all the time. Each event must follow exactly on the last one: an event that comes
again, or one that was left out without ``lost``, ends the test. When its connection ends, it joins on
another node with ``since``, as the protocol tells it to.
"""

from __future__ import annotations

import abc
import contextlib
import itertools
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio
import trio_websocket

from gateway.auth.tokens import Authenticator
from protocol.cbor import CBOR
from protocol.codec import Codec
from protocol.envelope import Envelope
from protocol.errors import CloseCode
from protocol.json import JSON
from tests.cluster.secure import secured
from tests.support import Raw

__all__ = ["ROOM", "Node", "Traffic", "Watcher", "traffic"]

ROOM = "orders"
_PAUSE = 0.05
"""Seconds between two attempts to connect."""
_GONE = (
    trio_websocket.ConnectionClosed,
    trio_websocket.HandshakeError,
    trio.BrokenResourceError,
    OSError,
)


class Node(Protocol):
    """A gateway that clients can connect to."""

    @property
    def port(self) -> int:
        """Where it listens."""

    @property
    def auth(self) -> Authenticator:
        """Makes tokens that it accepts."""


Position = tuple[str, int]
"""Epoch and number."""


class _Client(abc.ABC):
    """Somebody who always has a connection, with whichever node takes it."""

    def __init__(self, name: str, nodes: Sequence[Node], first: int, codec: Codec, patience: float) -> None:
        self.name = name
        self.first = first
        """The number of the node that it connects to at first."""
        self.connections = 0
        self._nodes = nodes
        self._turn = first
        self._codec = codec
        self._patience = patience

    async def run(self) -> None:
        """Connect, work, and connect again, until cancelled; whatever else ``work`` raises ends the test."""
        while True:
            node = self._nodes[self._turn % len(self._nodes)]
            token = node.auth.issue(org="acme", user=self.name).token
            streams: list[trio.abc.Stream] = []
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", node.port)
                streams.append(stream)
                streams[0] = await secured(stream)
                async with trio.open_nursery() as nursery:
                    socket = await trio_websocket.wrap_client_stream(
                        nursery,
                        streams[0],
                        f"127.0.0.1:{node.port}",
                        f"/ws?token={token}",
                        subprotocols=[self._codec.subprotocol],
                    )
                    raw = Raw(socket, self._codec)
                    raw.greeting = await raw.receive()
                    if raw.greeting.t == "closing":  # its node cannot reach the broker: come again
                        assert raw.greeting.code == CloseCode.TRY_AGAIN_LATER, raw.greeting
                        nursery.cancel_scope.cancel()
                    else:
                        assert raw.greeting.t == "connected", raw.greeting
                        raw.patience = self._patience
                        self.connections += 1
                        await self.work(raw)
            except* _GONE:
                self._turn += 1
            finally:  # also when it was cancelled before the gateway answered
                for stream in streams:
                    await trio.aclose_forcefully(stream)
            await trio.sleep(_PAUSE)

    @abc.abstractmethod
    async def work(self, raw: Raw) -> None:
        """What it does with a connection, until that ends."""


@dataclass
class Books:
    """What publishers were told."""

    acknowledged: dict[str, Position] = field(default_factory=dict)
    """Message id → the place that it got."""
    refusals: list[Envelope] = field(default_factory=list)
    longest: float = 0.0
    """Seconds from a refusal until the same publisher got a place again, at most."""


class _Publisher(_Client):
    def __init__(self, books: Books, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.books = books
        self.published = 0
        self.stopped = False
        self.done = trio.Event()

    async def work(self, raw: Raw) -> None:
        refused_at = math.inf
        while not self.stopped:
            mid = f"{self.name}-{self.published}"
            answer = await raw.ask("publish", room=ROOM, event="tick", data={"n": self.published}, mid=mid)
            if answer.t == "error":
                self.books.refusals.append(answer)
                refused_at = min(refused_at, trio.current_time())
                assert 300 <= (answer.code or 0) < 400, answer
                await trio.sleep(_retry_after(answer))
                continue
            assert answer.epoch is not None and answer.seq is not None
            self.books.longest = max(self.books.longest, trio.current_time() - refused_at)
            refused_at = math.inf
            self.books.acknowledged[mid] = (answer.epoch, answer.seq)
            self.published += 1
        self.done.set()
        await trio.sleep_forever()


class Watcher(_Client):
    """A member of the room."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.position: Position | None = None
        self.start: Position | None = None
        self.got: dict[str, Position] = {}
        """Message id → where it came."""
        self.lost: list[Envelope] = []
        self.elsewhere: list[Envelope] = []
        """What came outside the room."""
        self.joined = trio.Event()

    async def work(self, raw: Raw) -> None:
        await self._join(raw)
        for envelope in raw.events:
            self._take(envelope)
        while True:
            self._take(await raw.receive())

    async def _join(self, raw: Raw) -> None:
        since = self.position
        data = None if since is None else {"since": {"epoch": since[0], "seq": since[1]}}
        while (answer := await raw.ask("join", room=ROOM, data=data)).t == "error":
            assert 300 <= (answer.code or 0) < 400, answer
            await trio.sleep(_retry_after(answer))
        assert answer.epoch is not None and answer.seq is not None
        if since is None:
            self.position = self.start = (answer.epoch, answer.seq)
        else:
            assert answer.data["recovered"], f"{self.name}: {answer}"
            assert answer.seq == since[1] + answer.data["replayed"], f"{self.name} at {since}: {answer}"
        self.joined.set()

    def _take(self, envelope: Envelope) -> None:
        assert self.position is not None
        epoch, seq = self.position
        if envelope.room is None:
            self.elsewhere.append(envelope)
            return
        if envelope.t == "lost":
            self.lost.append(envelope)
            further = envelope.data.get("next")
            self.position = (further["epoch"], further["seq"]) if further else (epoch, envelope.data["to"])
            return
        assert envelope.t == "event" and envelope.mid is not None, f"{self.name}: {envelope}"
        place = (envelope.epoch or "", envelope.seq or 0)
        assert place == (epoch, seq + 1), f"{self.name} has {self.position} and got {place}: {envelope.mid}"
        # What was not answered before the broker lost it is repeated, and has a place in both epochs.
        earlier = self.got.get(envelope.mid, ("", 0))
        assert earlier[0] != place[0], f"{self.name} got {envelope.mid} at {earlier} and at {place}"
        self.got[envelope.mid] = place
        self.position = place


def _retry_after(answer: Envelope) -> float:
    assert answer.data and answer.data["retry_after"] > 0, f"a refusal without retry_after: {answer}"
    return float(answer.data["retry_after"])


@dataclass
class Traffic:
    """All of them together."""

    publishers: list[_Publisher]
    watchers: list[Watcher]
    books: Books
    messages: int
    """How many each publisher gets through in one flow."""
    patience: float
    """Seconds after which something that still does not happen has failed."""

    @property
    def reconnects(self) -> int:
        """Connections that ended, of everybody."""
        return sum(client.connections - 1 for client in [*self.publishers, *self.watchers])

    def of_node(self, number: int) -> Traffic:
        """Those who connected to this node at first."""
        publishers = [each for each in self.publishers if each.first == number]
        watchers = [each for each in self.watchers if each.first == number]
        return Traffic(publishers, watchers, self.books, self.messages, self.patience)

    def codes(self) -> Counter[int]:
        """How often publishers were refused with which code."""
        return Counter(refusal.code or 0 for refusal in self.books.refusals)

    async def flows(self, messages: int | None = None) -> None:
        """Wait until every publisher got so many more places, and every watcher has them."""
        wanted = [publisher.published + (messages or self.messages) for publisher in self.publishers]
        await self._wait(
            lambda: all(p.published >= n for p, n in zip(self.publishers, wanted, strict=True)),
            "publishers do not get on",
        )
        await self._arrived()

    async def refused(self, count: int = 1) -> None:
        """Wait until publishers were refused so many times more."""
        wanted = len(self.books.refusals) + count
        await self._wait(lambda: len(self.books.refusals) >= wanted, "nothing was refused", standing=True)

    async def settle(self) -> None:
        """Stop publishing; then every watcher must have all that was acknowledged, in its place."""
        for publisher in self.publishers:
            publisher.stopped = True
        with trio.fail_after(self.patience):
            for publisher in self.publishers:
                await publisher.done.wait()
        await self._arrived()
        missing = self._missing(self.books.acknowledged)
        assert not missing, f"{len(missing)} acknowledged messages are missing: {missing[:5]}"

    async def _arrived(self) -> None:
        """Wait until every watcher has what each publisher published last; all others came before."""
        latest = {
            mid: self.books.acknowledged[mid]
            for publisher in self.publishers
            if (mid := f"{publisher.name}-{publisher.published - 1}") in self.books.acknowledged
        }
        await self._wait(lambda: not self._missing(latest), "watchers do not get on")

    def _moved(self) -> int:
        """Grows whenever a message gets a place or is received."""
        return sum(p.published for p in self.publishers) + sum(len(w.got) for w in self.watchers)

    def _missing(self, places: dict[str, Position]) -> list[str]:
        """Acknowledged messages that a watcher did not get, and was not told to be lost."""
        return [
            f"{watcher.name}: {mid} at {place}"
            for watcher in self.watchers
            for mid, place in places.items()
            if watcher.got.get(mid) != place and not _announced(watcher, place)
        ]

    async def _wait(self, condition: Callable[[], bool], what: str, *, standing: bool = False) -> None:
        """Wait until it holds; fails when nothing gets on for ``patience`` seconds.

        With ``standing`` it has to hold within that time.
        """
        moved = -1
        with trio.CancelScope(deadline=trio.current_time() + self.patience) as scope:
            while not condition():
                if not standing and (now := self._moved()) != moved:
                    moved = now
                    scope.deadline = trio.current_time() + self.patience
                await trio.sleep(0.02)
        assert condition(), (
            f"{what}: {[(p.name, p.published, p.connections) for p in self.publishers]}, "
            f"{[(w.name, w.position, w.connections) for w in self.watchers]}, "
            f"missing {self._missing(self.books.acknowledged)[:5]}, refused {self.codes()}"
        )


def _announced(watcher: Watcher, place: Position) -> bool:
    """Tell whether the watcher was told that this place is lost, or joined after it."""
    if watcher.start is not None and place[0] == watcher.start[0] and place[1] <= watcher.start[1]:
        return True
    return any(
        lost.epoch == place[0] and lost.data["from"] <= place[1] <= lost.data.get("to", place[1])
        for lost in watcher.lost
    )


@contextlib.asynccontextmanager
async def traffic(
    nodes: Sequence[Node],
    *,
    publishers: int = 2,
    watchers: int = 2,
    messages: int = 20,
    patience: float = 20.0,
) -> AsyncIterator[Traffic]:
    """So many publishers and watchers on each node, for the length of the block."""
    books = Books()
    codecs = itertools.cycle((CBOR, JSON))
    everybody = Traffic([], [], books, messages, patience)
    for first in range(len(nodes)):
        for number in range(publishers):
            name = f"publisher-{first}-{number}"
            everybody.publishers.append(_Publisher(books, name, nodes, first, next(codecs), patience))
        for number in range(watchers):
            everybody.watchers.append(
                Watcher(f"watcher-{first}-{number}", nodes, first, next(codecs), patience)
            )
    async with trio.open_nursery() as nursery:
        for watcher in everybody.watchers:
            nursery.start_soon(watcher.run)
        with trio.fail_after(patience):
            for watcher in everybody.watchers:
                await watcher.joined.wait()
        for publisher in everybody.publishers:
            nursery.start_soon(publisher.run)
        yield everybody
        nursery.cancel_scope.cancel()
