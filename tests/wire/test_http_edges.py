"""Requests that proxies and servers read differently, and bounds that a parser leaves open."""

from __future__ import annotations

import pytest
import trio

from gateway.app import Gateway
from gateway.testing.settings import make_settings
from gateway.wire.upgrade import Refusal, parse_upgrade, split_target
from tests.support import running_gateway
from tests.upgrade import knock, request_head
from tests.wire.http_peer import echo, http_peer, http_server

CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
BOUND = make_settings().limits.head_bytes


async def test_length_and_encoding_together_are_refused_and_end_the_connection() -> None:
    head = CHUNKED.replace(b"Host: x", b"Host: x\r\nContent-Length: 3")
    async with http_server(echo) as server, http_peer(server.port) as peer:
        assert (await peer.ask(head + b"3\r\nabc\r\n0\r\n\r\n")).status == 400
        assert await peer.ended()


async def test_small_chunks_are_no_extensions() -> None:
    async with http_server(echo) as server, http_peer(server.port) as peer:
        answer = await peer.ask(CHUNKED + b"1\r\nx\r\n" * 20_000 + b"0\r\nTrailer: yes\r\n\r\n")
        assert answer.json()["size"] == 20_000


@pytest.mark.parametrize(
    "around",
    [
        b"1;a=" + b"x" * (BOUND + 100) + b"\r\nx\r\n0\r\n\r\n",
        (b"1;a=" + b"x" * 1000 + b"\r\nx\r\n") * (BOUND // 1000 + 2) + b"0\r\n\r\n",
        b"1\r\nx\r\n0\r\nTrailer: " + b"x" * (BOUND + 100) + b"\r\n\r\n",
        b"1\r\nx\r\n0\r\n" + b"Trailer: yes\r\n" * (BOUND // 10) + b"\r\n",
    ],
    ids=["one extension", "many extensions", "one trailer", "many trailers"],
)
async def test_what_surrounds_the_data_has_the_bound_of_the_head(around: bytes) -> None:
    async with http_server(echo) as server, http_peer(server.port) as peer:
        assert (await peer.ask(CHUNKED + around)).status == 431
        assert await peer.ended()


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/ws?a=1?b", "/ws", "a=1?b"),
        (b"http://host:80/ws?a", "/ws", "a"),
        (b"HTTPS://host/a/b", "/a/b", ""),
        (b"http://host", "/", ""),
        (b"http://host?a/b", "/", "a/b"),
        (b"*", "*", ""),
    ],
)
def test_targets_that_are_whole_addresses(target: bytes, path: str, query: str) -> None:
    assert split_target(target) == (path, query)


async def test_a_websocket_may_be_asked_for_by_its_whole_address(gateway: Gateway) -> None:
    token = gateway.auth.issue(org="acme", user="alice").token
    answer = await knock(gateway, f"http://127.0.0.1:{gateway.port}/ws?token={token}")
    assert answer.status == 101


def test_a_websocket_does_not_begin_with_http_1_0() -> None:
    with pytest.raises(Refusal) as caught:
        parse_upgrade(request_head("/ws").replace(b"HTTP/1.1", b"HTTP/1.0"), max_bytes=BOUND)
    assert caught.value.status == 505


@pytest.mark.parametrize(("count", "status"), [(40, 101), (255, 101), (256, 400), (3000, 400)])
async def test_any_number_of_query_parameters_is_answered(count: int, status: int) -> None:
    async with running_gateway() as gateway:
        token = gateway.auth.issue(org="acme", user="alice").token
        with trio.fail_after(60):
            answer = await knock(gateway, f"/ws?token={token}" + "&a=1" * count)
        assert answer.status == status
