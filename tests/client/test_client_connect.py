"""Getting a connection: addresses, tokens, refusals, TLS, and what comes out of entering the block."""

from __future__ import annotations

import ssl
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
import trustme
from trio.testing import MockClock

from gateway.client import (
    Backoff,
    ClientClosed,
    ConnectionFailed,
    ConnectionRefused,
    ReconnectFailed,
    connect,
)
from gateway.client.transport import Address, parse_url
from tests.client.loops import settle
from tests.client.scripted import URL, Refusal, ScriptedGateway

EXACT = Backoff(jitter=lambda: 1.0)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("ws://host:8000/ws", Address("host", 8000, "/ws", tls=False)),
        ("ws://host", Address("host", 80, "/ws", tls=False)),
        ("http://host/", Address("host", 80, "/ws", tls=False)),
        ("wss://host/prefix/ws?token=a%20b", Address("host", 443, "/prefix/ws?token=a%20b", tls=True)),
        ("https://[::1]:8443?ticket=t", Address("::1", 8443, "/ws?ticket=t", tls=True)),
    ],
)
def test_addresses(url: str, address: Address) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize("url", ["host:8000", "ftp://host", "ws://", "/ws", "ws://host:port/"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match=r"address|[Pp]ort"):
        parse_url(url)


def test_the_host_header() -> None:
    assert Address("host", 80, "/", tls=False).authority == "host"
    assert Address("host", 443, "/", tls=False).authority == "host:443"
    assert Address("::1", 443, "/", tls=True).authority == "[::1]"


async def test_what_the_gateway_is_told(scripted: ScriptedGateway) -> None:
    async with scripted.connect(headers={"Origin": "http://here"}) as client:
        peer = await scripted.peer()
        assert client.state == "connected"
        assert client.connection.connection == "n1-1"
        assert client.connection.limits.message_bytes == 2**20
    assert client.state == "closed"
    assert peer.path == "/ws"
    assert peer.headers["authorization"] == "Bearer t"
    assert peer.headers["origin"] == "http://here"
    assert peer.headers["user-agent"].startswith("trireme-gateway/")


async def test_without_a_token_no_header(scripted: ScriptedGateway) -> None:
    async with scripted.connect(token=None):
        assert "authorization" not in (await scripted.peer()).headers


@pytest.mark.parametrize("status", [400, 401, 403, 404, 426])
async def test_a_refusal_is_final(scripted: ScriptedGateway, status: int) -> None:
    body = b'{"title": "No", "detail": "the token has expired"}'
    scripted.plan.append(Refusal(status, body, Content_Type="application/problem+json"))
    with pytest.raises(ConnectionRefused) as caught:
        async with scripted.connect():
            pytest.fail("not connected")
    assert (caught.value.status, caught.value.reason) == (status, "the token has expired")
    assert len(scripted.dials) == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "Unauthorized"),
        (b"plain\r\n text", "plain text"),
        (b'{"title": "Only a title"}', "Only a title"),
        (b'["no problem"]', '["no problem"]'),
        (b"\xff" * 1000, "\N{REPLACEMENT CHARACTER}" * 300),
    ],
)
async def test_the_reason_of_a_refusal(scripted: ScriptedGateway, body: bytes, reason: str) -> None:
    scripted.plan.append(Refusal(401, body))
    with pytest.raises(ConnectionRefused) as caught:
        async with scripted.connect():
            pytest.fail("not connected")
    assert caught.value.reason == reason


async def test_busy_gateways_are_tried_again_when_they_say(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    scripted.plan.extend(
        [
            Refusal(503, Retry_After="7"),
            Refusal(429, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"),
            Refusal(502),
            OSError("no route"),
        ]
    )
    async with scripted.connect(reconnect=EXACT) as client:
        assert client.state == "connected"
    assert scripted.dials == [0, 7.5, 8.5, 9.5, 11.5]


@pytest.mark.parametrize("step", ["eof", "silent", "unwelcome", OSError("no route")])
async def test_no_connection_comes_about(scripted: ScriptedGateway, clock: MockClock, step: Any) -> None:
    scripted.plan.append(step)
    with pytest.raises(ConnectionFailed):
        async with scripted.connect(reconnect=False, connect_timeout=5.0):
            pytest.fail("not connected")
    assert anyio.current_time() <= 5.0 + 2.0, "the deadline, and the closing handshake"
    assert len(scripted.dials) == 1


async def test_the_first_connection_has_its_tries_too(scripted: ScriptedGateway, clock: MockClock) -> None:
    scripted.plan.extend([OSError("first"), OSError("second"), OSError("third")])
    with pytest.raises(ReconnectFailed) as caught:
        async with scripted.connect(reconnect=Backoff(tries=2, give_up=True, jitter=lambda: 1.0)):
            pytest.fail("not connected")
    assert caught.value.tries == 2
    assert isinstance(caught.value.__cause__, ConnectionFailed)
    assert "third" in str(caught.value.__cause__)
    assert scripted.dials == [0, 0.5, 1.5]


async def test_a_command_line_does_not_wait_for_the_first_connection(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    scripted.plan.extend([OSError("nobody"), None, OSError("away"), None])
    with pytest.raises(ConnectionFailed, match="nobody"):
        async with scripted.connect(retry_first=False):
            pytest.fail("not connected")
    async with scripted.connect(retry_first=False, reconnect=EXACT) as client:
        await (await scripted.peer()).drop()
        await scripted.peer()
        await settle()
        assert client.state == "connected"
    assert scripted.dials == [0, 0, 0.5, 1.5]


async def test_a_welcome_that_is_none_is_final(scripted: ScriptedGateway) -> None:
    scripted.welcome = {"org": "acme"}
    with pytest.raises(ConnectionFailed, match="connection"):
        async with scripted.connect():
            pytest.fail("not connected")
    assert len(scripted.dials) == 1


async def test_closing_in_place_of_a_welcome(scripted: ScriptedGateway, clock: MockClock) -> None:
    scripted.plan.append("unwelcome")

    async def full() -> None:
        peer = await scripted.peer()
        await peer.send("closing", code=1013, message="full", data={"reconnect": True, "retry_after": 4})
        await peer.close(1013)

    async with anyio.create_task_group() as nursery:
        nursery.start_soon(full)
        async with scripted.connect(reconnect=EXACT):
            pass
    assert scripted.dials == [0, 4.5]


async def test_closed_before_the_welcome(scripted: ScriptedGateway) -> None:
    """In-band authentication that failed: 1008 is not for trying again."""
    scripted.plan.append("unwelcome")

    async def refuse() -> None:
        await (await scripted.peer()).close(1008, "no token")

    async with anyio.create_task_group() as nursery:
        nursery.start_soon(refuse)
        with pytest.raises(ConnectionFailed, match="1008 before the welcome: no token"):
            async with scripted.connect():
                pytest.fail("not connected")


async def test_a_callable_token_is_asked_before_every_connection(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    given = iter(["one", "two"])

    async def token() -> str:
        await anyio.lowlevel.checkpoint()
        return next(given)

    async with scripted.connect(token=token):
        peer = await scripted.peer()
        assert peer.headers["authorization"] == "Bearer one"
        await peer.drop()
        assert (await scripted.peer()).headers["authorization"] == "Bearer two"


async def test_a_token_that_cannot_be_had_is_a_failed_try(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    async def token() -> str:
        await anyio.lowlevel.checkpoint()
        raise KeyError("no tokens today")

    with pytest.raises(ReconnectFailed) as caught:
        async with scripted.connect(token=token, reconnect=Backoff(tries=1, give_up=True)):
            pytest.fail("not connected")
    assert isinstance(caught.value.__cause__, ConnectionFailed)
    assert isinstance(caught.value.__cause__.__cause__, KeyError)
    assert scripted.dials == []


async def test_a_token_that_never_comes(scripted: ScriptedGateway, clock: MockClock) -> None:
    with pytest.raises(ConnectionFailed, match="within 5 s"):
        async with scripted.connect(token=anyio.sleep_forever, connect_timeout=5.0, reconnect=False):
            pytest.fail("not connected")


async def test_the_gateway_must_speak_the_subprotocol(scripted: ScriptedGateway) -> None:
    scripted.subprotocol = None
    with pytest.raises(ConnectionFailed, match=r"trireme\.v1\.cbor"):
        async with scripted.connect():
            pytest.fail("not connected")
    assert len(scripted.dials) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"codec": "xml"},
        {"command_timeout": 0},
        {"heartbeat": float("inf")},
        {"buffer": -1},
        {"window": -1},
        {"max_pending": 0},
        {"max_message_bytes": 0},
    ],
)
async def test_senseless_parameters(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        async with connect(URL, **bad):
            pytest.fail("not connected")


async def test_errors_of_the_block_come_out_as_they_are(scripted: ScriptedGateway) -> None:
    error = KeyError("mine")
    error.__context__ = ValueError("before")
    with pytest.raises(KeyError) as caught:
        async with scripted.connect():
            raise error
    assert caught.value is error
    assert isinstance(error.__context__, ValueError)
    errors = [KeyError(), ValueError()]
    with pytest.raises(ExceptionGroup) as caught_group:
        async with scripted.connect():
            raise ExceptionGroup("mine", errors)
    assert (caught_group.value.message, [*caught_group.value.exceptions]) == ("mine", errors)


async def test_a_refusal_of_a_later_connection(scripted: ScriptedGateway, clock: MockClock) -> None:
    scripted.plan.extend([None, Refusal(401)])
    async with scripted.connect() as client:
        await (await scripted.peer()).drop()
        with pytest.raises(ConnectionRefused, match="401"):
            await client.info()
        with pytest.raises(ConnectionRefused, match="401"):
            await anext(client)
        assert client.state == "closed"


async def test_after_the_block_everything_is_closed(scripted: ScriptedGateway) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await peer.event(1)
        await settle()
    assert [event.seq async for event in client] == [1], "what had been received, then the end"
    with pytest.raises(ClientClosed):
        await client.info()


async def test_over_tcp_and_tls(nursery: trio.Nursery) -> None:
    authority = trustme.CA()
    server, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(trusting)
    scripted = ScriptedGateway(nursery)
    port = await scripted.listen(server)
    async with connect(f"wss://localhost:{port}", token="t", ssl_context=trusting):
        assert (await scripted.peer()).headers["authorization"] == "Bearer t"
    # Nobody vouches for the certificate: final, whatever the number of tries.
    with pytest.raises(ConnectionFailed, match="certificate"):
        async with connect(f"wss://localhost:{port}", token="t"):
            pytest.fail("not connected")


async def test_over_tcp(nursery: trio.Nursery) -> None:
    scripted = ScriptedGateway(nursery)
    port = await scripted.listen()
    async with connect(f"ws://127.0.0.1:{port}", token="t"):
        assert (await scripted.peer()).headers["authorization"] == "Bearer t"


async def test_nobody_listens() -> None:
    with pytest.raises(ConnectionFailed, match=r"cannot connect to 127\.0\.0\.1:1: "):
        async with connect("ws://127.0.0.1:1", reconnect=False):
            pytest.fail("not connected")
