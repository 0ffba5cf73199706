"""Peers that do much of what is cheap for them: connect, fail to log in, send tiny frames and commands.

The bounds: ``limits.connections`` and ``limits.head_timeout``, ``rates.failed_logins_per_ip``,
``limits.message_bytes``, ``limits.rooms_per_connection``; and no turn of one connection is long.
"""

from __future__ import annotations

import contextlib
import tracemalloc
from collections import Counter

import trio

from protocol.cbor import CBOR
from protocol.envelope import Envelope
from protocol.errors import CloseCode
from tests.attacks.support import attacker, bystander, dial, forgotten, read_to_end, status_of
from tests.framing import BINARY, CLOSE, CONTINUATION, PONG, TEXT, client_frame
from tests.support import DEADLINE, connected, running_gateway
from tests.upgrade import knock, request_head
from tests.wire.support import Peer


async def test_a_flood_of_silent_connections() -> None:
    """They fill the node: who is in is served, who comes gets 503, and when they go there is room again."""
    limits = {"connections": 200, "head_timeout": 100.0}
    async with running_gateway(limits=limits) as gateway, bystander(gateway):
        token = gateway.auth.issue(org="good", user="late").token
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(400):
                await stack.enter_async_context(await dial(gateway))
            refused = await knock(gateway, f"/ws?token={token}")
            assert (refused.status, refused.problem["code"]) == (503, 402)
        await forgotten(gateway, but=1)
        async with connected(gateway, org="good", user="late"):
            pass


async def test_a_flood_of_bad_logins() -> None:
    """After a burst the tokens of this address are not even looked at; who is in stays in."""
    rates = {"failed_logins_per_ip": 5.0, "burst": 4.0}
    async with running_gateway(rates=rates) as gateway, connected(gateway, org="good") as other:
        found: Counter[int] = Counter()

        async def some() -> None:
            for _ in range(30):
                answer = await knock(gateway, "/ws?token=a.b.c")
                found[answer.status] += 1
                assert answer.status == 401 or int(answer.headers["retry-after"]) >= 1

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(some)
        assert set(found) == {401, 429} and found.total() == 300
        assert gateway.hub.counters.errors[200] == found[401] < 100
        assert (await other.ask("ping")).t == "pong"
        await forgotten(gateway, but=1)


async def test_a_flood_of_upgrades_that_are_dropped() -> None:
    """A good request, and gone before the answer."""
    async with running_gateway() as gateway, bystander(gateway):
        token = gateway.auth.issue(org="evil", user="mallory").token

        async def some() -> None:
            for _ in range(25):
                async with await dial(gateway) as stream:
                    await stream.send_all(request_head(f"/ws?token={token}"))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(some)
        await forgotten(gateway, but=1)


async def test_a_message_in_tiny_fragments() -> None:
    """It grows to the limit of a message and no further; so does memory."""
    limit = 10_000
    async with running_gateway(limits={"message_bytes": limit}) as gateway, bystander(gateway):
        async with attacker(gateway) as peer:
            tracemalloc.start()
            try:
                await peer.send(client_frame(TEXT, b" ", fin=False))
                await peer.send(client_frame(CONTINUATION, b" ", fin=False) * (limit + 1000))
                assert await close_code(peer) == CloseCode.TOO_LARGE
                most = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert most < 1_000_000
        await forgotten(gateway, but=1)


async def close_code(peer: Peer) -> int | None:
    """Of the Close that comes; what comes before it is passed over."""
    while (frame := await peer.frame()).opcode != CLOSE:
        pass
    return frame.code


async def test_tiny_commands_by_the_chunk() -> None:
    """Each is answered, in order; somebody else's command does not wait for all of them."""
    count = 20_000
    ping = client_frame(TEXT, b'{"v":1,"t":"ping"}')
    async with running_gateway(limits={"queue_messages": 10 * count}) as gateway:
        async with (
            attacker(gateway) as peer,
            connected(gateway, org="good") as other,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(peer.send, ping * count)
            heard = 0

            async def listen() -> None:
                nonlocal heard
                while heard < count:
                    heard += b'"pong"' in (await peer.frame()).payload

            nursery.start_soon(listen)
            with trio.fail_after(DEADLINE):
                while not heard:
                    await trio.lowlevel.checkpoint()
            assert (await other.ask("ping")).t == "pong"
            assert heard < count, "the flood was over before the other one's command was answered"


async def test_pongs_that_nobody_asked_for() -> None:
    async with running_gateway() as gateway, bystander(gateway), attacker(gateway) as peer:
        for _ in range(20):
            await peer.send(client_frame(PONG, b"x" * 125) * 500)
        await peer.send(client_frame(CLOSE, b"\x03\xe8"))
        assert await close_code(peer) == CloseCode.NORMAL


async def test_joins_up_to_the_limit_and_beyond() -> None:
    """Rooms cost memory: their number is limited by connection, and they end with it."""
    async with running_gateway(limits={"rooms_per_connection": 100}) as gateway, bystander(gateway):
        async with attacker(gateway, codec=CBOR) as peer:
            joins = [Envelope("join", id=number, room=f"r{number}") for number in range(5000)]
            await peer.send(*(client_frame(BINARY, CBOR.encode(join)) for join in joins))
            answers: Counter[int | None] = Counter()
            while answers.total() < len(joins):
                frame = await peer.frame()
                answer = CBOR.decode(frame.payload)
                if answer.t in {"reply", "error"}:
                    answers[answer.code] += 1
            assert answers == {None: 100, 400: 4900}
            assert len(gateway.hub.organisations["evil"].rooms) == 100
        await forgotten(gateway, but=1)
        assert "evil" not in gateway.hub.organisations


async def test_garbage_by_the_megabyte() -> None:
    async with running_gateway() as gateway, bystander(gateway):

        async def one() -> None:
            async with await dial(gateway) as stream:
                with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(DEADLINE):
                    for _ in range(50):
                        await stream.send_all(b"GET /" + b"\xff" * 20_000)
                with contextlib.suppress(AssertionError):
                    assert status_of(await read_to_end(stream)) == 400

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one)
        await forgotten(gateway, but=1)
