"""Whole connections through the gateway: early errors, slow bodies, TLS, and the change to WebSocket."""

from __future__ import annotations

import ssl

import httpx
import pytest
import trio
import trustme

from gateway.app import Gateway
from tests.rest.api import problem
from tests.support import connected, running_gateway
from tests.wire.http_peer import http_peer

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def post(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {size}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def test_a_connection_goes_on_after_an_early_error(gateway: Gateway) -> None:
    good = f"Authorization: Bearer {gateway.auth.issue(org='acme', roles=['service']).token}"
    json = "Content-Type: application/json"
    body = b"x" * 30_000  # a large one that nobody reads ends the connection
    async with http_peer(gateway.port) as peer:
        for request, status in (
            (post("/nothing", body), 404),
            (post("/healthz", body), 405),
            (post("/api/v1/broadcast", body), 401),
            (post("/api/v1/broadcast", body, "Authorization: Bearer x"), 401),
            (post("/api/v1/broadcast", body, good), 400),
            (post("/api/v1/broadcast", body, good, "Content-Type: text/csv"), 415),
            (post("/api/v1/broadcast", b"{}", good, json), 400),
            (post("/api/v1/broadcast?org=globex", b'{"event":"e"}', good, json), 403),
            (post("/api/v1/connections/none/send", b'{"event":"e"}', good, json), 404),
            (post("/api/v1/broadcast", b'{"event":"e"}', good, json), 200),
        ):
            answer = await peer.ask(request)
            assert answer.status == status
            assert (await peer.ask(HEALTH)).json() == {"status": "ok"}


async def test_a_slow_body_is_given_up_and_others_are_served() -> None:
    async with (
        running_gateway(limits={"body_timeout": 0.3}) as gateway,
        http_peer(gateway.port) as slow,
        connected(gateway) as alice,
        trio.open_nursery() as nursery,
    ):
        bearer = f"Authorization: Bearer {gateway.auth.issue(org='acme').token}"

        async def dribble() -> None:
            with trio.move_on_after(10):
                for byte in post("/api/v1/broadcast", b"", bearer, length=1000) + b" " * 999:
                    try:
                        await slow.send(bytes([byte]))
                    except trio.BrokenResourceError:
                        return
                    await trio.sleep(0.01 if byte == ord(" ") else 0)

        nursery.start_soon(dribble)
        assert (await alice.ask("ping")).t == "pong"
        answer = await slow.answer()
        assert answer is not None
        assert (answer.status, answer.json()["code"], answer.whole) == (408, 303, True)
        assert await slow.ended()
        nursery.cancel_scope.cancel()


async def test_a_body_that_is_announced_too_large_is_refused_at_once(gateway: Gateway) -> None:
    bearer = f"Authorization: Bearer {gateway.auth.issue(org='acme').token}"
    async with http_peer(gateway.port) as peer:
        answer = await peer.ask(post("/api/v1/broadcast", b"{", bearer, length=10**12))
        assert (answer.status, answer.json()["code"]) == (413, 404)
        assert answer.headers["content-type"] == "application/problem+json"
        assert await peer.ended()


async def test_a_websocket_can_begin_on_a_connection_that_served_http(gateway: Gateway) -> None:
    token = gateway.auth.issue(org="acme", user="alice").token
    upgrade = (
        f"GET /ws?token={token} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    async with http_peer(gateway.port) as peer:
        for _ in range(2):
            await peer.ask(HEALTH)
        await peer.send(upgrade.encode())
        got = b""
        with trio.fail_after(60):
            while b'"connected"' not in got:
                chunk = await peer.stream.receive_some()
                assert chunk, got
                got += chunk
        assert got.startswith(b"HTTP/1.1 101 ")
        assert len(gateway.hub.connections) == 1


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


async def test_everything_works_over_tls(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(folder / "chain.pem"))
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    files = {"certificate": str(folder / "chain.pem"), "key": str(folder / "key.pem")}
    async with (
        running_gateway(tls=files) as gateway,
        httpx.AsyncClient(base_url=f"https://localhost:{gateway.port}", verify=trust) as client,
    ):
        token = gateway.auth.issue(org="acme", roles=["service"]).token
        headers = {"Authorization": f"Bearer {token}"}
        for _ in range(3):
            body = {"event": "e", "room": "r", "data": "x" * 200_000}
            answer = await client.post("/api/v1/broadcast", json=body, headers=headers)
            assert answer.status_code == 200
        history = (await client.get("/api/v1/rooms/r/history", headers=headers)).json()
        assert [event["seq"] for event in history["events"]] == [1, 2, 3]
        problem(await client.get("/api/v1/stats"), 401, 200)
        async with http_peer(gateway.port, trust) as peer:
            request = HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
            assert (await peer.ask(request)).status == 200
            assert await peer.ended()
        async with http_peer(gateway.port, trust) as peer:
            bearer = f"Authorization: Bearer {token}"
            answer_ = await peer.ask(post("/api/v1/broadcast", b"{", bearer, length=10**12))
            assert answer_.status == 413
