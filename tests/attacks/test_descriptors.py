"""File descriptors: when none is left, and when one is used again at once."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from pathlib import Path
from types import SimpleNamespace

import trio

from gateway.testing.settings import SECRET
from gateway.wire.flusher import Flusher
from gateway.wire.pump import Pump
from gateway.wire.shares import Share
from tests.attacks.support import bystander, forgotten
from tests.processes import DEADLINE, Folder, Served, serving
from tests.support import connected, running_gateway, until
from tests.upgrade import request_head


async def healthy(served: Served) -> bool:
    """Whether a new connection is served."""
    with contextlib.suppress(OSError, trio.BrokenResourceError), trio.move_on_after(1):
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return b" 200 " in await stream.receive_some(65536)
    return False


async def ask(stream: trio.SocketStream, path: bytes) -> None:
    """Ask on a connection that is kept alive; the answer must be good."""
    await stream.send_all(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = b""
    with trio.fail_after(DEADLINE):
        while not answer.endswith(b"}"):
            answer += await stream.receive_some(65536)
    assert answer.startswith(b"HTTP/1.1 200 "), answer


async def test_a_listener_without_descriptors_recovers(tmp_path: Path) -> None:
    """More peers than the process may have descriptors: who is in is served; when some go, others get in."""
    folder = Folder(tmp_path, {"GATEWAY_AUTH_SECRET": SECRET, "GATEWAY_LIMITS_HEAD_TIMEOUT": "60"})
    async with serving(folder) as served, contextlib.AsyncExitStack() as inside:
        early = await inside.enter_async_context(await trio.open_tcp_stream("127.0.0.1", served.port))
        await ask(early, b"/healthz")
        used = len(os.listdir(f"/proc/{served.process.pid}/fd"))
        resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE, (used + 20, used + 20))
        async with contextlib.AsyncExitStack() as crowd:
            for _ in range(60):
                await crowd.enter_async_context(await trio.open_tcp_stream("127.0.0.1", served.port))
            await until(lambda: any("cannot accept" in line for line in served.lines), "the shortage")
            assert not await healthy(served)
            await ask(early, b"/readyz")
        with trio.fail_after(DEADLINE):
            while not await healthy(served):
                pass
        assert not any("Traceback" in line for line in served.lines)
        shortages = sum("cannot accept" in line for line in served.lines)
        assert shortages < 200, "it is tried ten times a second, no more"


class Reader:
    """What the pump calls."""

    armed = False
    queued = False

    def __init__(self, share: Share, pair: tuple[socket.socket, socket.socket]) -> None:
        self.outbox = SimpleNamespace(share=share)
        self.ours, self.theirs = pair
        self.ours.setblocking(False)
        self.calls = 0

    def on_readable(self) -> None:
        self.calls += 1
        self.then()

    def then(self) -> None:
        self.ours.recv(100)


async def test_a_descriptor_that_is_used_again_belongs_to_its_new_owner() -> None:
    """Of two sockets that are readable at once one closes the other, and a new one gets its number."""
    flusher = Flusher()
    pump = Pump(flusher)
    share = flusher.share
    first, second = Reader(share, socket.socketpair()), Reader(share, socket.socketpair())
    late: list[Reader] = []

    def replace(self: Reader, other: Reader) -> None:
        self.ours.recv(100)
        if not late:
            number = other.ours.fileno()
            pump.disarm(other.ours, other)
            other.ours.close()
            pair = socket.socketpair()
            late.append(Reader(share, pair))
            assert late[0].ours.fileno() == number
            pump.arm(late[0].ours, late[0])

    first.then = lambda: replace(first, second)  # type: ignore[method-assign]
    second.then = lambda: replace(second, first)  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        for reader in (first, second):
            pump.arm(reader.ours, reader)
            reader.theirs.send(b"x")
        nursery.start_soon(pump.run)
        await until(lambda: bool(late))
        await trio.testing.wait_all_tasks_blocked()
        assert first.calls + second.calls == 1, "what was closed is not read"
        assert late[0].calls == 0, "nothing came for the new one"
        late[0].theirs.send(b"y")
        await until(lambda: late[0].calls == 1)
        survivor = first if first.calls else second
        survivor.theirs.send(b"z")
        await until(lambda: survivor.calls == 2)
        assert len(pump) == 2
        nursery.cancel_scope.cancel()
    for reader in (first, second, *late):
        reader.ours.close()
        reader.theirs.close()


async def test_connections_that_come_and_go_at_once_keep_apart() -> None:
    """The kernel gives the lowest free number: every new connection gets that of one that just went."""
    async with running_gateway() as gateway, bystander(gateway):
        token = gateway.auth.issue(org="evil", user="m").token

        async def churn() -> None:
            for _ in range(40):
                stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
                async with stream:
                    await stream.send_all(request_head(f"/ws?token={token}"))
                    if b"101" in await stream.receive_some(12):
                        await stream.send_all(b"\x81")

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(churn)
            for number in range(40):
                async with connected(gateway, org="other", user=f"u{number}") as raw:
                    assert raw.greeting.data["user"] == f"u{number}"
                    assert (await raw.ask("ping", data=number)).data == number
        await forgotten(gateway, but=1)
