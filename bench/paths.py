"""The hot paths without a kernel and without a clock: what is done for one message, and nothing else.

The parts are the gateway's own (pump, connection, session, hub, memory broker, flusher). Its sockets are
stand-ins that always have the same bytes to read and take whatever is written, and its clock stands still,
so that no slice of time ever ends. So each pass does exactly the same, and its instructions can be counted
on any machine, however busy (``python -m bench instructions``).

``python -m bench.paths`` prints the nanoseconds of each path; with ``--steps`` it says on its output when
it begins and ends one, and waits for a line on its input each time.
"""

from __future__ import annotations

import argparse
import functools
import gc
import operator
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, cast

import trio

from bench.echo import Echo
from bench.micro import client_frame
from gateway.auth.identity import Grants, Identity
from gateway.auth.tokens import Authenticator
from gateway.broker.memory import MemoryBroker
from gateway.calls.registry import Calls
from gateway.cluster.one import OneNode
from gateway.config.settings import AuthSettings, Settings
from gateway.hub.hub import Hub
from gateway.session.session import Client, Services, Session
from gateway.wire import broadcast
from gateway.wire.connection import WireConnection, WireLimits
from gateway.wire.engine import Engine
from protocol.cbor import CBOR
from protocol.codec import Codec
from protocol.encoding import websocket
from protocol.envelope import Envelope
from protocol.frames import BINARY, TEXT
from protocol.json import JSON
from protocol.patterns import EventFilter

__all__ = ["PATHS", "Path", "main"]

CONNECTIONS = 50
MEMBERS = 100
WARM_UP = 40
PASSES = 20

_DATA = {"number": 123456, "pad": "x" * 80}


def _socket(chunk: bytes) -> Any:
    """Always has ``chunk`` to read, and takes whatever is written; to call it is to write to it."""
    sock: Any = functools.partial(len)
    sock.recv = lambda _size: chunk
    sock.send = len
    return sock


class _Poll:
    """Every second time all sockets are readable, and none in between."""

    def __init__(self, count: int) -> None:
        self._now: list[tuple[int, int]] = []
        self._next = [(number, 1) for number in range(count)]

    def poll(self, _timeout: float, _limit: int) -> list[tuple[int, int]]:
        self._now, self._next = self._next, self._now
        return self._now


class Rig:
    """A node without sockets."""

    def __init__(self) -> None:
        settings = Settings(auth=AuthSettings(secret="x" * 32))
        self.engine = Engine()
        self.engine.flusher._clock = time.perf_counter
        self.broker = MemoryBroker(settings.history)
        self.hub = Hub(self.broker, self.engine.flusher, node="n")
        auth = Authenticator(settings.auth)
        self.services = Services(settings, self.hub, auth, OneNode(self.hub, auth), Calls())
        self.limits = WireLimits()

    def connection(self, chunk: bytes = b"") -> WireConnection:
        """A connection that can be read for ever; its handler is the caller's to give."""
        wire = WireConnection(engine=self.engine, limits=self.limits, sock=_socket(chunk))
        wire.reader.armed = True
        return wire

    async def session(self, user: str, codec: Codec, chunk: bytes = b"") -> Session:
        """One that has been let in, and does not listen to what goes to the whole organisation."""
        wire = self.connection(chunk)
        session = Session(self.services, wire, codec, websocket(codec), Client("127.0.0.1"))
        wire.handler = session
        await session.admit(Identity("acme", user, frozenset(), Grants.ALL))
        wire.outbox.flush()
        return session

    def reading(self, wires: list[WireConnection]) -> Callable[[], Awaitable[None]]:
        """A pass in which the pump reads each once and the flusher writes what came of it."""
        pump: Any = self.engine.pump
        pump._readers = dict(enumerate(wire.reader for wire in wires))
        pump._epoll = _Poll(len(wires))
        serve: Callable[[], Awaitable[None]] = pump._serve
        return serve


Pass = Callable[[], Awaitable[None]]


async def _echo(rig: Rig, in_flight: int) -> Pass:
    chunk = client_frame(b"x" * 100) * in_flight
    wires = [rig.connection(chunk) for _ in range(CONNECTIONS)]
    for wire in wires:
        wire.handler = Echo(wire)
    return rig.reading(wires)


async def _commands(rig: Rig, codec: Codec, in_flight: int) -> Pass:
    command = Envelope("publish", id=7, room="bench-0", event="tick", data=_DATA)
    frame = client_frame(codec.encode(command), BINARY if codec.binary else TEXT)
    sessions = [await rig.session(f"user-{n}", codec, frame * in_flight) for n in range(CONNECTIONS)]
    return rig.reading([cast(WireConnection, session.transport) for session in sessions])


async def _fan_out(rig: Rig, codec: Codec, events: int, *, blocked: int = 0) -> Pass:
    for number in range(MEMBERS):
        member = await rig.session(f"user-{number}", codec)
        assert member.connection is not None
        await rig.hub.join(member.connection, "bench-0", events=EventFilter.ALL)
        if number < blocked:
            member.outbox.keep([b"stuck"], 0)

    async def publish() -> None:
        for _ in range(events):
            rig.hub.submit("acme", "bench-0", "tick", _DATA, _nothing, "user-0", None, None, False, 100)
        while rig.engine.flusher.active:
            rig.engine.flusher.flush()

    return publish


def _nothing(_place: object) -> None:
    pass


class Path(NamedTuple):
    """One path: what it is, how a pass of it is made, and how many messages a pass is."""

    title: str
    prepare: Callable[[Rig], Awaitable[Pass]]
    messages: int


PATHS = {
    "fanout": Path("fan-out to 100, per delivery", lambda rig: _fan_out(rig, JSON, 1), MEMBERS),
    "fanout-16": Path(
        "fan-out to 100, 16 events together, per delivery", lambda rig: _fan_out(rig, JSON, 16), 16 * MEMBERS
    ),
    "fanout-blocked": Path(
        "fan-out to 100 of whom one is blocked, per delivery",
        lambda rig: _fan_out(rig, JSON, 1, blocked=1),
        MEMBERS,
    ),
    "commands-json": Path(
        "publish with reply, JSON, 1 in flight", lambda rig: _commands(rig, JSON, 1), CONNECTIONS
    ),
    "commands-json-16": Path(
        "publish with reply, JSON, 16 in flight", lambda rig: _commands(rig, JSON, 16), 16 * CONNECTIONS
    ),
    "commands-cbor": Path(
        "publish with reply, CBOR, 1 in flight", lambda rig: _commands(rig, CBOR, 1), CONNECTIONS
    ),
    "commands-cbor-16": Path(
        "publish with reply, CBOR, 16 in flight", lambda rig: _commands(rig, CBOR, 16), 16 * CONNECTIONS
    ),
    "echo": Path("bench.echo, 1 in flight", lambda rig: _echo(rig, 1), CONNECTIONS),
    "echo-16": Path("bench.echo, 16 in flight", lambda rig: _echo(rig, 16), 16 * CONNECTIONS),
}


async def _run(steps: bool, clock: Callable[[], float]) -> None:
    for name, path in PATHS.items():
        once = await path.prepare(Rig())
        for _ in range(WARM_UP):
            await once()
        best = float("inf")
        for _ in range(1 if steps else 7):
            gc.collect()  # the next one comes when this path's own garbage calls for it
            _step(steps, f"begin {name}")
            begun = clock()
            for _ in range(PASSES):
                await once()
            best = min(best, clock() - begun)
            _step(steps, f"end {name}")
        if not steps:
            print(f"{1e9 * best / PASSES / path.messages:8,.0f} ns  {path.title}", flush=True)


def _step(steps: bool, text: str) -> None:
    if steps:
        print(text, flush=True)
        sys.stdin.readline()


def main() -> None:
    """Parse the command line and run every path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", action="store_true")
    clock = time.perf_counter
    in_c: Any = operator.call
    broadcast._SEND = in_c
    time.perf_counter = lambda: 0.0
    trio.run(_run, parser.parse_args().steps, clock)


if __name__ == "__main__":
    main()
