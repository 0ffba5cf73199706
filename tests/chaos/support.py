"""Clients that note what they got, and what must be left of them afterwards: nothing."""

from __future__ import annotations

import contextlib
import gc
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import trio

from gateway.app import Gateway
from gateway.hub.connection import Connection
from gateway.hub.room import Membership
from gateway.session.session import Session
from gateway.wire.connection import WireConnection
from gateway.wire.outbox import Outbox
from tests.framing import CLOSE, PING, PONG, TEXT, Frame, client_frame, take_frame
from tests.support import held, start_gateway
from tests.upgrade import request_head
from tests.wire.support import Peer, read_head
from tests.wire.test_life_cycle import count_sockets, count_tasks

__all__ = ["ROOM", "Member", "chaos", "dial", "eventually", "everybody", "joined", "reset", "say"]

ROOM: Final = "ticks"
PATIENCE: Final = 40.0
"""Seconds after which what is waited for does not come any more."""
_KINDS: Final = (WireConnection, Session, Connection, Membership, Outbox)


async def eventually(condition: Callable[[], bool], what: str = "the condition") -> None:
    """Wait until ``condition()`` holds."""
    with trio.move_on_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await trio.sleep(0.005)
    assert condition(), f"{what} did not come true"


async def dial(gateway: Gateway, *, window: int = 0) -> trio.SocketStream:
    """A connection; with a ``window`` the kernel takes about so many bytes that are not read."""
    sock = trio.socket.socket()
    if window:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    with trio.fail_after(PATIENCE):
        await sock.connect(("127.0.0.1", gateway.port))
    return trio.SocketStream(sock)


def say(**message: Any) -> bytes:
    """A command as a frame."""
    return client_frame(TEXT, msgspec.json.encode({"v": 1, **message}))


async def joined(gateway: Gateway, user: str, *, window: int = 0, room: str = ROOM, **data: Any) -> Peer:
    """A client in a room, whose reply is read."""
    token = gateway.auth.issue(org="acme", user=user).token
    stream = await dial(gateway, window=window)
    try:
        with trio.fail_after(PATIENCE):
            await stream.send_all(
                request_head(f"/ws?token={token}") + say(t="join", id=1, room=room, data=data)
            )
        _, rest = await read_head(stream)
        peer = Peer(stream, rest)
        while msgspec.json.decode((await peer.frame()).payload)["t"] != "reply":
            pass
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return peer


async def reset(stream: trio.SocketStream) -> None:
    """Be gone, with a reset (RFC 9293, section 3.5.3) in the place of an orderly end."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(stream)


@dataclass
class Member:
    """A client that reads on until the gateway closes, and notes what it was given of the room."""

    peer: Peer
    messages: list[dict[str, Any]] = field(default_factory=list)
    replies: dict[int, dict[str, Any]] = field(default_factory=dict)
    awake: trio.Event = field(default_factory=trio.Event)
    """It reads only while this is set."""
    code: int | None = None
    """Of the Close."""
    sending: trio.Lock = field(default_factory=trio.Lock)

    def __post_init__(self) -> None:
        self.awake.set()

    async def say(self, *frames: bytes) -> None:
        """Send; more than one task may."""
        async with self.sending:
            await self.peer.send(*frames)

    async def listen(self) -> None:
        """Read until the end; pings are answered, and the Close."""
        data = self.peer._data
        try:
            while True:
                while (taken := take_frame(data)) is not None:
                    frame, data = taken
                    await self._hear(frame)
                await self.awake.wait()
                chunk = await self.peer.stream.receive_some(65536)
                if not chunk:
                    return
                data += chunk
        except trio.BrokenResourceError:
            pass
        finally:
            await self.peer.close()

    async def _hear(self, frame: Frame) -> None:
        if frame.opcode == PING:
            await self.say(client_frame(PONG, frame.payload))
        elif frame.opcode == CLOSE:
            self.code = frame.code
            await self.say(client_frame(CLOSE, frame.payload[:2]))
        else:
            self._note(msgspec.json.decode(frame.payload))

    def _note(self, message: dict[str, Any]) -> None:
        if message["t"] == "lost" or (message["t"] == "event" and "seq" in message):
            self.messages.append(message)
        elif "id" in message:
            self.replies[message["id"]] = message

    @property
    def position(self) -> int:
        """The number up to which it was told of everything."""
        if not self.messages:
            return 0
        last = self.messages[-1]
        return int(last["seq"] if last["t"] == "event" else last["data"]["to"])

    def account(self, start: int = 1) -> Counter[str]:
        """Count events and lost numbers; fails unless they are all from ``start`` on, in order, each once."""
        found: Counter[str] = Counter(event=0, lost=0)
        expected = start
        for message in self.messages:
            if message["t"] == "event":
                assert message["seq"] == expected, (message["seq"], expected)
                found["event"] += 1
                expected += 1
            else:
                first, last = message["data"]["from"], message["data"]["to"]
                assert first == expected <= last, (message, expected)
                found["lost"] += last - first + 1
                expected = last + 1
        return found


def _living() -> dict[str, int]:
    """Objects of connections that somebody still holds."""
    gc.collect()
    # isinstance would ask what a proxy stands for, which may be nothing any more.
    counts = Counter(type(each).__name__ for each in gc.get_objects() if issubclass(type(each), _KINDS))
    return dict(counts)


@contextlib.asynccontextmanager
async def chaos(**changes: Any) -> AsyncIterator[Gateway]:
    """A gateway that must be as it was after its start when the block is over, unless it was stopped."""
    async with trio.open_nursery() as nursery:
        gateway = await start_gateway(nursery, **changes)
        # What is made once is made by the first client.
        await (await joined(gateway, "first")).close()
        await eventually(lambda: gateway.listener.open == 0)
        tasks, sockets, living = count_tasks(), count_sockets(), _living()
        yield gateway
        if not gateway.draining:
            await eventually(lambda: gateway.listener.open == 0, "the end of all connections")
            assert (count_tasks(), count_sockets()) == (tasks, sockets)
        _nothing_left(gateway)
        assert _living() == living
        nursery.cancel_scope.cancel()


def _nothing_left(gateway: Gateway) -> None:
    assert held(gateway) == {}
    hub = gateway.hub
    assert hub.counters.connects == hub.counters.disconnects == sum(hub.counters.closes.values())


async def everybody(members: Iterable[Member], position: int) -> None:
    """Wait until each was told of everything up to ``position``, or is gone."""
    for member in members:
        await eventually(
            lambda each=member: each.code is not None or each.position >= position, "the last event"
        )
