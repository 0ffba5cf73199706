"""Peers that ask and do not read: what waits for them is bounded, then they are closed.

The bounds: ``limits.queue_messages`` and ``limits.queue_bytes``; ``limits.send_timeout`` for HTTP.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import trio

from gateway.app import Gateway
from gateway.wire.outbox import Outbox
from protocol.envelope import Envelope
from protocol.errors import CloseCode
from protocol.json import JSON
from tests.attacks.support import attacker, bystander, dial, forgotten, http_head
from tests.framing import PING, TEXT, client_frame
from tests.secure import secured
from tests.support import connected, running_gateway, until
from tests.wire.support import Peer

pytestmark = pytest.mark.usefixtures("plain_and_tls")
QUEUE = 256 * 1024
RESERVE = 256 * 1024 + 1024
"""What urgent frames may use above ``limits.queue_bytes``."""
SMALL = {"limits": {"queue_bytes": QUEUE, "send_timeout": 0.3}, "connection": {"close_timeout": 0.3}}


@pytest.fixture
def peak(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The most bytes that waited in any outbox."""
    found = {"bytes": 0}

    def watch(name: str) -> None:
        put: Callable[[Outbox, bytes], bool] = getattr(Outbox, name)

        def watched(self: Outbox, frame: bytes) -> bool:
            queued = put(self, frame)
            found["bytes"] = max(found["bytes"], self.size)
            return queued

        monkeypatch.setattr(Outbox, name, watched)

    watch("append")
    watch("put_urgent")
    return found


def command(t: str, **fields: object) -> bytes:
    return client_frame(TEXT, JSON.encode(Envelope(t, **fields)))


async def flood(gateway: Gateway, peer: Peer, data: bytes) -> None:
    """Send ``data`` again and again until the gateway has had enough."""

    async def send() -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                await peer.stream.send_all(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await until(lambda: gateway.hub.counters.closes[CloseCode.SLOW_CONSUMER], "the end")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("what", ["pings", "replies", "long replies"])
async def test_answers_that_nobody_reads_are_bounded(what: str, peak: dict[str, int]) -> None:
    """Slow read: the peer asks for more and more, and its window stays shut."""
    async with running_gateway(**SMALL) as gateway, bystander(gateway):
        async with attacker(gateway) as peer:
            if what == "pings":
                data = client_frame(PING, b"p" * 125) * 500
            elif what == "replies":
                data = command("info", id=1) * 500
            else:
                await peer.send(command("join", id=1, room="r"))
                await peer.send(command("publish", room="r", event="e", data="x" * 100_000))
                data = command("history", id=1, room="r") * 10
            await flood(gateway, peer, data)
            assert QUEUE // 2 < peak["bytes"] <= QUEUE + RESERVE
        await forgotten(gateway, but=1)
        assert gateway.hub.counters.closes[CloseCode.SLOW_CONSUMER] == 1


async def test_events_that_nobody_reads_are_bounded(peak: dict[str, int]) -> None:
    """Fifty members of a room stop reading; the others get every event."""
    async with running_gateway(**SMALL) as gateway, bystander(gateway), contextlib.AsyncExitStack() as stack:
        for number in range(50):
            peer = await stack.enter_async_context(attacker(gateway, user=f"m{number}"))
            await peer.send(command("join", id=1, room="r"))
            while b'"reply"' not in (await peer.frame()).payload:
                pass
        reader = await stack.enter_async_context(connected(gateway, org="evil", user="reader"))
        await reader.ask("join", room="r")
        for number in range(400):
            await gateway.hub.publish("evil", "r", "e", "x" * 20_000)
            assert (await reader.event()).seq == number + 1
        assert peak["bytes"] <= QUEUE + RESERVE
        await until(lambda: gateway.hub.counters.closes[CloseCode.SLOW_CONSUMER] == 50)
    assert gateway.hub.connections == {}


async def test_http_answers_that_nobody_reads_are_given_up() -> None:
    async with running_gateway(**SMALL) as gateway, bystander(gateway):
        request = http_head("/api/v1/openapi.json")
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):
                stream = await stack.enter_async_context(await secured(await dial(gateway)))
                with trio.move_on_after(0.05):
                    await stream.send_all(request * 500)
            await until(lambda: gateway.http.connections == 0, "the end of the answers")
        await forgotten(gateway, but=1)
