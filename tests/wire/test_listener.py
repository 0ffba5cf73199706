"""The one port: what is not a good request gets a clear answer in time, and harms nobody else."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import trio
import websockets

from gateway.app import Gateway
from tests.support import DEADLINE, certificate, connected, running_gateway, until, url

UPGRADE = b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"


async def exchange(gateway: Gateway, *pieces: bytes) -> bytes:
    """Send ``pieces`` and return everything that comes back until the gateway closes."""
    answer = b""
    with trio.fail_after(DEADLINE):
        async with await trio.open_tcp_stream("127.0.0.1", gateway.port) as stream:
            try:
                for piece in pieces:
                    await stream.send_all(piece)
            except trio.BrokenResourceError:
                pass  # answered, and closed, before all of it was sent
            while chunk := await stream.receive_some(65536):
                answer += chunk
    return answer


def status(answer: bytes) -> int:
    """The status of an answer that must be a problem document."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, answer
    assert json.loads(body)["status"] == int(head.split()[1])
    return int(head.split()[1])


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"\x00" * 100, 400),
        (b"hello, is anybody there?\r\n\r\n", 400),
        (UPGRADE + b"Sec-WebSocket-Version: 13\r\n\r\n", 400),
        (UPGRADE + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c2hvcnQ=\r\n\r\n", 400),
        (UPGRADE + b"Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", 426),
        (b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n", 426),
        (b"POST /ws HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
        (UPGRADE + b"bad header\r\n\r\n", 400),
        (UPGRADE + b"X-Long: " + b"x" * 100_000 + b"\r\n\r\n", 431),
    ],
    ids=[
        "tls",
        "zeros",
        "words",
        "no key",
        "short key",
        "version 8",
        "no upgrade",
        "post",
        "header",
        "100 kB",
    ],
)
async def test_what_is_no_upgrade_request_is_refused(gateway: Gateway, sent: bytes, expected: int) -> None:
    async with connected(gateway) as neighbour:
        assert status(await exchange(gateway, sent)) == expected
        assert (await neighbour.ask("ping")).t == "pong"
    await until(lambda: gateway.listener.open == 0, "the end of both connections")


async def test_an_endless_head_is_cut_off_before_it_ends(gateway: Gateway) -> None:
    assert status(await exchange(gateway, UPGRADE, *[b"X-More: " + b"x" * 1000 + b"\r\n"] * 100)) == 431


async def test_a_silent_peer_and_one_that_dribbles_are_given_up_in_time() -> None:
    async with running_gateway(limits={"head_timeout": 0.3}) as gateway:
        assert status(await exchange(gateway)) == 408
        async with (
            await trio.open_tcp_stream("127.0.0.1", gateway.port) as stream,
            trio.open_nursery() as nursery,
        ):

            async def dribble() -> None:
                try:
                    for byte in UPGRADE * 10:
                        await stream.send_all(bytes((byte,)))
                        await trio.sleep(0.05)  # the peer's own pace, not a guess at ours
                except trio.BrokenResourceError:
                    pass

            nursery.start_soon(dribble)
            with trio.fail_after(DEADLINE):
                assert status(await stream.receive_some(65536)) == 408
            nursery.cancel_scope.cancel()
        await until(lambda: gateway.listener.open == 0, "the end of the connections")


async def test_a_full_node_refuses_the_next_one() -> None:
    head = UPGRADE + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    async with running_gateway(limits={"connections": 1}) as gateway, connected(gateway):
        answer = await exchange(gateway, head)
        assert status(answer) == 503
        assert b"retry-after: 1\r\n" in answer.lower()


@pytest.mark.parametrize("sent", [b"", UPGRADE], ids=["silent", "half a head"])
async def test_connections_on_which_nothing_was_asked_do_not_hold_up_the_end(sent: bytes) -> None:
    """Their deadlines are an hour away, and so is that of the shutdown."""
    async with running_gateway(limits={"head_timeout": 3600}, shutdown_timeout=3600) as gateway:
        async with await trio.open_tcp_stream("127.0.0.1", gateway.port) as stream:
            await stream.send_all(sent)
            await until(lambda: gateway.listener.open == 1, "the connection")
            gateway.stop()
            with trio.fail_after(DEADLINE):
                await gateway.finished.wait()


async def test_a_foreign_client_over_tls(tmp_path: Path) -> None:
    files, trusting = certificate(tmp_path, "127.0.0.1")

    async def talk(gateway: Gateway) -> list[str]:
        address = url(gateway, gateway.auth.issue(org="acme", user="alice").token).replace("ws://", "wss://")
        async with websockets.connect(address, ssl=trusting, compression=None) as socket:
            heard = [json.loads(await socket.recv())["t"]]
            await socket.send('{"v":1,"t":"join","id":1,"room":"r"}')
            heard.append(json.loads(await socket.recv())["t"])
            await socket.send(
                json.dumps({"v": 1, "t": "publish", "room": "r", "event": "big", "data": "x" * 200_000})
            )
            event = json.loads(await socket.recv())
            assert event["seq"] == 1 and len(event["data"]) == 200_000
            await (await socket.ping())
        assert socket.close_code == 1000
        return heard

    async with running_gateway(tls=files) as gateway:
        with trio.fail_after(DEADLINE):
            assert await trio.to_thread.run_sync(lambda: asyncio.run(talk(gateway))) == ["connected", "reply"]
            # Neither plain HTTP nor a handshake that never ends does harm.
            assert b"HTTP/1.1 200" not in await exchange(gateway, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: gateway.listener.open == 0, "the end of the connections")
