"""What is left of ended connections in a whole gateway without the cycle collector, which runs seldom."""

from __future__ import annotations

import gc
import json
import ssl
from collections import Counter
from pathlib import Path

import pytest
import trio
import trustme

from gateway.app import Gateway
from tests.framing import CLOSE, TEXT, client_frame, close_payload
from tests.support import held, running_gateway, until
from tests.upgrade import request_head
from tests.wire.support import dial, fragments, read_head, upgraded

NUMBER = 8
EXCUSED = {"Timer", "Event", "_LaneStream", "CloseWatch"}
"""A note in the timers' heap until the next beat would have been due, and the ends that
the slow lane's library keeps in a cycle of its own."""


def _ours() -> Counter[str]:
    """How many objects there are of each class of ours."""
    kinds = (type(each) for each in gc.get_objects())
    return Counter(
        kind.__qualname__ for kind in kinds if str(kind.__module__).startswith(("gateway.", "protocol."))
    )


@pytest.mark.parametrize("transport", ["websocket", "fragments", "stream", "poll", "resting", "rest"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_nothing_is_left_to_the_collector(secure: bool, transport: str, tmp_path: Path) -> None:
    """Neither of those that say goodbye nor of those that are cut off."""
    authority = trustme.CA()
    pem = tmp_path / "node.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pem))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    tls = {"certificate": str(pem), "key": str(pem)} if secure else {}
    async with running_gateway(tls=tls) as gateway:
        token = gateway.auth.issue(org="acme", user="alice").token

        async def come_and_go(politely: bool) -> None:
            sock = await dial(gateway.port)
            stream = trio.SSLStream(sock, trusting, server_hostname="localhost") if secure else sock
            try:
                await _use(stream, token, transport, politely)
            finally:
                await trio.aclose_forcefully(stream)

        async def some() -> Counter[str]:
            for number in range(NUMBER):
                await come_and_go(politely=number % 2 == 0)
            await _empty(gateway)
            return _ours()

        await some()
        gc.collect()
        gc.disable()
        try:
            before = await some()
            after = await some()
            left = {
                name: count - before[name]
                for name, count in after.items()
                if name not in EXCUSED and count >= before[name] + NUMBER // 4
            }
        finally:
            gc.enable()
    assert left == {}


async def _use(stream: trio.abc.Stream, token: str, transport: str, politely: bool) -> None:
    if transport in {"websocket", "fragments"}:
        peer = await upgraded(stream, request_head(f"/ws?token={token}"))
        await peer.frame()
        for message in ({"t": "join", "room": "r"}, {"t": "publish", "room": "r", "event": "e"}):
            payload = json.dumps({"v": 1, "id": 1, **message}).encode()
            await peer.send(
                fragments(TEXT, payload[:5], payload[5:])
                if transport == "fragments"
                else client_frame(TEXT, payload)
            )
            await peer.frame()
        if politely:
            await peer.send(client_frame(CLOSE, close_payload(1000)))
            while (await peer.frame()).opcode != CLOSE:
                pass
        return
    path = {
        "stream": "stream?join=r",
        "poll": "poll?join=r&timeout=0",
        "resting": "poll?join=r&timeout=0.01",
        "rest": "stats",
    }[transport]
    closing = "Connection: close\r\n" if transport == "poll" else ""
    await stream.send_all(
        f"GET /api/v1/{path} HTTP/1.1\r\nHost: x\r\n{closing}Authorization: Bearer {token}\r\n\r\n".encode()
    )
    await read_head(stream)
    if politely and transport not in {"stream", "resting"}:
        await stream.receive_some(65536)


async def _empty(gateway: Gateway) -> None:
    await until(lambda: gateway.listener.open == 0 and not held(gateway), "the end of the connections")
