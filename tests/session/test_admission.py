"""Who may upgrade, with what, and how everybody else is refused."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator

import jwt
import pytest
import trio
import trio_websocket

from gateway.app import Gateway
from gateway.auth.tokens import Authenticator
from gateway.testing.settings import SECRET
from protocol.cbor import CBOR
from protocol.codec import Codec
from protocol.errors import ErrorCode as E
from protocol.json import JSON
from tests.support import Raw, connected, greeted, running_gateway, until, url
from tests.upgrade import knock


def bearer(token: str) -> list[tuple[str, str]]:
    return [("Authorization", f"Bearer {token}")]


def token(gateway: Gateway, org: str = "acme", user: str | None = "alice") -> str:
    return gateway.auth.issue(org=org, user=user).token


@contextlib.asynccontextmanager
async def opened(
    address: str, *, headers: list[tuple[bytes, bytes]] | None = None, codec: Codec = JSON
) -> AsyncIterator[Raw]:
    async with trio_websocket.open_websocket_url(
        address, subprotocols=[codec.subprotocol], extra_headers=headers
    ) as socket:
        yield Raw(socket, codec)


# --- the four ways to hand over a token ------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_token_in_the_header(gateway: Gateway, scheme: str) -> None:
    headers = [(b"Authorization", f"{scheme} {token(gateway)}".encode())]
    async with opened(url(gateway), headers=headers) as client:
        assert (await greeted(client)).greeting.data["user"] == "alice"


async def test_token_in_the_address(gateway: Gateway) -> None:
    async with opened(url(gateway, token=token(gateway))) as client:
        assert (await greeted(client)).greeting.data["user"] == "alice"


async def test_ticket_in_the_address_once(gateway: Gateway) -> None:
    ticket = gateway.auth.tickets.issue(await gateway.auth.verify(token(gateway)))
    async with opened(url(gateway, ticket=ticket)) as client:
        assert (await greeted(client)).greeting.data["user"] == "alice"
    again = await knock(gateway, f"/ws?ticket={ticket}")
    assert (again.status, again.problem["code"]) == (401, E.UNAUTHENTICATED)
    assert "ticket" in again.problem["detail"]


async def test_a_ticket_of_a_revoked_token_is_refused(gateway: Gateway) -> None:
    ticket = gateway.auth.tickets.issue(await gateway.auth.verify(token(gateway)))
    gateway.auth.revocations.revoke(org="acme", user="alice")
    refused = await knock(gateway, f"/ws?ticket={ticket}")
    assert (refused.status, refused.problem["code"]) == (401, E.TOKEN_REVOKED)


async def test_token_in_band() -> None:
    async with (
        running_gateway(auth={"in_band": True}) as gateway,
        opened(url(gateway)) as client,
    ):
        answer = await client.ask("auth", data={"token": token(gateway)})
        assert (answer.t, answer.data["user"]) == ("connected", "alice")


async def test_a_bad_token_is_refused_before_the_upgrade_also_in_band() -> None:
    async with running_gateway(auth={"in_band": True}) as gateway:
        for path in ("/ws?token=bad", "/ws?ticket=bad", "/ws?token=", "/ws?ticket="):
            assert (await knock(gateway, path)).problem["code"] == E.UNAUTHENTICATED
        assert (await knock(gateway, headers=bearer("bad"))).status == 401


async def test_the_header_counts_before_the_address(gateway: Gateway) -> None:
    headers = bearer(token(gateway, user="header"))
    async with opened(
        url(gateway, token=token(gateway, user="query")),
        headers=[(name.encode(), value.encode()) for name, value in headers],
    ) as client:
        assert (await greeted(client)).greeting.data["user"] == "header"
    refused = await knock(gateway, f"/ws?token={token(gateway)}", headers=bearer("bad"))
    assert refused.status == 401, "a bad token does not fall back to another one"


# --- refused tokens ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_refused_tokens(gateway: Gateway) -> None:
    now = int(time.time())
    good = {"org": "acme", "sub": "alice", "iat": now, "exp": now + 600, "jti": "j"}
    past = Authenticator(gateway.settings.auth, now=lambda: time.time() - 7200)
    revoked = gateway.auth.issue(org="acme", user="alice")
    gateway.auth.revocations.revoke(jti=revoked.jti)
    signed = jwt.encode(good, SECRET, "HS256")
    header, payload, signature = signed.split(".")
    other = jwt.encode({**good, "org": "other"}, SECRET, "HS256").split(".")[1]
    cases: list[tuple[str, E, str]] = [
        ("", E.UNAUTHENTICATED, "no token"),
        ("garbage", E.UNAUTHENTICATED, "JWT"),
        (past.issue(org="acme", user="alice", ttl=60).token, E.TOKEN_EXPIRED, "expired"),
        (revoked.token, E.TOKEN_REVOKED, "revoked"),
        (
            jwt.encode(good, "another key that is long enough for this", "HS256"),
            E.UNAUTHENTICATED,
            "signature",
        ),
        (f"{header}.{other}.{signature}", E.UNAUTHENTICATED, "signature"),
        (f"{header}.{payload}.", E.UNAUTHENTICATED, "token"),
        (jwt.encode(good, SECRET, "HS384"), E.UNAUTHENTICATED, "algorithm"),
        (jwt.encode(good, None, "none"), E.UNAUTHENTICATED, "algorithm"),
        (jwt.encode({**good, "org": None}, SECRET, "HS256"), E.UNAUTHENTICATED, "organisation"),
        (jwt.encode({"sub": "alice", "exp": now + 600}, SECRET, "HS256"), E.UNAUTHENTICATED, "organisation"),
        (jwt.encode({**good, "org": ""}, SECRET, "HS256"), E.UNAUTHENTICATED, "org"),
        (jwt.encode({**good, "org": "a\0b"}, SECRET, "HS256"), E.UNAUTHENTICATED, "org"),
        (jwt.encode({**good, "nbf": now + 600}, SECRET, "HS256"), E.UNAUTHENTICATED, "not valid yet"),
        (jwt.encode({**good, "rooms": {"r": ["fly"]}}, SECRET, "HS256"), E.UNAUTHENTICATED, "permission"),
    ]
    for bad, code, reason in cases:
        for path, headers in ((f"/ws?token={bad}", []), ("/ws", bearer(bad))):
            answer = await knock(gateway, path, headers=headers)
            assert (answer.status, answer.problem["code"]) == (401, code), (reason, answer)
            assert reason in answer.problem["detail"], answer.problem
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.headers["connection"] == "close"
    assert gateway.hub.counters.connects == 0 and not gateway.hub.organisations
    assert gateway.hub.counters.errors[E.TOKEN_EXPIRED] == 2
    async with opened(url(gateway, token=signed)) as client:
        assert (await greeted(client)).greeting.data["org"] == "acme"


async def test_no_token_is_refused_with_a_reason(gateway: Gateway) -> None:
    answer = await knock(gateway)
    assert (answer.status, answer.problem["code"]) == (401, E.UNAUTHENTICATED)
    assert "token" in answer.problem["detail"]
    basic = await knock(gateway, headers=[("Authorization", "Basic YWxpY2U6c2VjcmV0")])
    assert (basic.status, basic.problem["code"]) == (401, E.UNAUTHENTICATED)
    assert "Bearer" in basic.problem["detail"]


# --- subprotocols --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([], None),
        (["trireme.v1.json"], "trireme.v1.json"),
        (["trireme.v1.cbor"], "trireme.v1.cbor"),
        (["trireme.v1.json, trireme.v1.cbor"], "trireme.v1.cbor"),
        (["trireme.v1.json", "trireme.v1.cbor"], "trireme.v1.cbor"),
        (["trireme.v9.cbor, graphql-ws , trireme.v1.json"], "trireme.v1.json"),
    ],
)
async def test_the_server_chooses_the_subprotocol(
    gateway: Gateway, offered: list[str], chosen: str | None
) -> None:
    answer = await knock(gateway, f"/ws?token={token(gateway)}", subprotocols=offered)
    assert answer.status == 101
    assert answer.headers.get("sec-websocket-protocol") == chosen
    assert answer.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


async def test_json_is_spoken_when_nothing_is_offered(gateway: Gateway) -> None:
    async with trio_websocket.open_websocket_url(url(gateway, token(gateway))) as socket:
        client = await greeted(Raw(socket, JSON))
        assert client.greeting.data["subprotocol"] == "trireme.v1.json"


@pytest.mark.parametrize("offered", [["graphql-ws"], ["trireme.v2.cbor, TRIREME.V1.JSON"]])
async def test_unknown_subprotocols_are_refused_with_the_known_ones(
    gateway: Gateway, offered: list[str]
) -> None:
    answer = await knock(gateway, f"/ws?token={token(gateway)}", subprotocols=offered)
    assert answer.status == 400
    for codec in (CBOR, JSON):
        assert codec.subprotocol in answer.problem["detail"]
    assert gateway.hub.counters.connects == 0


# --- origin, capacity, draining ----------------------------------------------------------------------------


async def test_only_allowed_origins() -> None:
    async with running_gateway(allowed_origins=["https://app.example", "https://b.example:8443"]) as gateway:
        path = f"/ws?token={token(gateway)}"
        for origin in ("https://app.example", "https://b.example:8443"):
            assert (await knock(gateway, path, headers=[("Origin", origin)])).status == 101
        for origin in ("https://evil.example", "http://app.example", "https://app.example.evil", "null", ""):
            answer = await knock(gateway, path, headers=[("Origin", origin)])
            assert (answer.status, answer.problem["code"]) == (403, E.FORBIDDEN), origin
        assert (await knock(gateway, path)).status == 101, "not a browser"


async def test_any_origin_by_default(gateway: Gateway) -> None:
    answer = await knock(gateway, f"/ws?token={token(gateway)}", headers=[("Origin", "https://any.example")])
    assert answer.status == 101


async def test_a_full_node_refuses() -> None:
    async with running_gateway(limits={"connections": 2}) as gateway:
        async with connected(gateway), connected(gateway):
            answer = await knock(gateway, f"/ws?token={token(gateway)}")
            assert (answer.status, answer.problem["code"]) == (503, E.TOO_MANY_CONNECTIONS)
            assert int(answer.headers["retry-after"]) >= 1
        await until(lambda: gateway.listener.open == 0)
        async with connected(gateway) as alice:
            assert (await alice.ask("ping")).t == "pong"


async def test_a_draining_node_refuses(gateway: Gateway) -> None:
    """A connection that was accepted before the drain and asks after it."""
    async with await trio.open_tcp_stream("127.0.0.1", gateway.port) as stream:
        await until(lambda: gateway.listener.open == 1)
        gateway.draining = True
        answer = await knock(gateway, f"/ws?token={token(gateway)}")
        assert (answer.status, answer.problem["code"]) == (503, E.SHUTTING_DOWN)
        assert int(answer.headers["retry-after"]) >= 1
        await stream.aclose()


async def test_a_drain_while_keys_are_fetched_forgets_nobody(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verifying may have to wait for a key set; whoever waits there when the drain begins is refused too."""
    fetching, fetched = trio.Event(), trio.Event()
    verify = gateway.auth.verify

    async def slow_verify(token: str) -> object:
        fetching.set()
        await fetched.wait()
        return await verify(token)

    monkeypatch.setattr(gateway.auth, "verify", slow_verify)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                answer = await knock(gateway, f"/ws?token={token(gateway)}")
                assert (answer.status, answer.problem["code"]) == (503, E.SHUTTING_DOWN)

            nursery.start_soon(ask)
            await fetching.wait()
            gateway.stop()
            await until(lambda: gateway.draining)
            fetched.set()
            await gateway.finished.wait()


# --- what may be seen of it --------------------------------------------------------------------------------


async def test_no_secret_reaches_the_logs(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither at the level debug nor through an error of a handler."""
    caplog.set_level(logging.DEBUG)
    for noisy in ("trio-websocket", "wsproto"):  # the client of these tests logs what it sends
        caplog.set_level(logging.CRITICAL, logger=noisy)
    async with running_gateway(auth={"in_band": True}, log={"level": "debug"}) as gateway:
        good, fresh = (
            gateway.auth.issue(org="acme", user="alice"),
            gateway.auth.issue(org="acme", user="alice"),
        )
        ticket = gateway.auth.tickets.issue(await gateway.auth.verify(good.token))
        bad = good.token[:-8] + "AAAAAAAA"

        async def fail(connection: object, data: object) -> None:
            raise RuntimeError("the handler failed")

        gateway.handle_call("fail", fail)
        for path, headers in (
            (f"/ws?token={bad}", []),
            ("/ws", bearer(bad)),
            (f"/ws?ticket={ticket}x", []),
            (f"/nothing?token={good.token}", [("Connection", "close")]),
        ):
            await knock(gateway, path, headers=headers)
        async with opened(url(gateway)) as client:
            assert (await client.ask("auth", data={"token": good.token})).t == "connected"
            assert (await client.ask("refresh", data={"token": fresh.token})).t == "reply"
            await client.ask("call", event="fail", data={"token": good.token})
        async with opened(url(gateway, ticket=ticket)) as client:
            await greeted(client)
            resume = client.greeting.data["resume"]
    logged = caplog.text + "".join(capfd.readouterr())
    assert "the handler failed" in logged, "the logs are seen"
    for secret in (SECRET, good.token, fresh.token, ticket, bad, resume):
        assert secret not in logged
        assert secret.rpartition(".")[2] not in logged
