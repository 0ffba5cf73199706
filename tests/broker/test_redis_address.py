"""Where Redis is: the forms of its address, what is said of wrong ones, TLS, passwords, check."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trustme

from gateway.broker.base import room_channel
from gateway.broker.redis.connection import LinkLost
from gateway.broker.redis.servers import probe
from gateway.config.redis_address import Address, parse_address
from gateway.config.settings import RedisSettings, SettingsError
from tests.broker.nodes import cluster_of, make
from tests.redis_server import RedisServer, redis_server
from tests.support import until

ROOM = room_channel("acme", "c")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("redis://h", Address("single", (("h", 6379),))),
        ("redis://h:1/3", Address("single", (("h", 1),), database=3)),
        ("redis://h?db=3", Address("single", (("h", 6379),), database=3)),
        ("redis://:p%40w@h", Address("single", (("h", 6379),), password="p@w")),
        ("rediss://me:pw@[::1]:7/", Address("single", (("::1", 7),), tls=True, username="me", password="pw")),
        ("redis+unix:///run/a%20b.sock?db=2", Address("single", (), path="/run/a b.sock", database=2)),
        ("redis+unix://:pw@/run/a", Address("single", (), path="/run/a", password="pw")),
        ("redis+cluster://a,b:2", Address("cluster", (("a", 6379), ("b", 2)))),
        ("rediss+cluster://:pw@a", Address("cluster", (("a", 6379),), tls=True, password="pw")),
        (
            "redis+sentinel://me:pw@a,b:2/main/4",
            Address(
                "sentinel",
                (("a", 26379), ("b", 2)),
                username="me",
                password="pw",
                service="main",
                database=4,
            ),
        ),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nats://:hidden@h", "is unknown"),
        ("redis+tcp://:hidden@h", "is unknown"),
        ("redis://:hidden@", "a host is missing"),
        ("redis://:hidden@a,b", "several hosts need"),
        ("redis://:hidden@h/x", "'x' is not the number of a database"),
        ("redis://:hidden@h/1/2", "'2' is not supported here"),
        ("redis://:hidden@h?x=1", "'x' is not supported here"),
        ("redis://:hidden@h:port", ""),
        ("redis+sentinel://:hidden@h", "the name of the service is missing"),
        ("redis+cluster://:hidden@h/1", "a cluster has no databases"),
        ("redis+unix://:hidden@host/run/x", "write a Unix socket as redis+unix://"),
        ("rediss+unix://:hidden@/run/x", "write a Unix socket as redis+unix://"),
    ],
)
def test_wrong_addresses_are_refused_without_their_password(text: str, reason: str) -> None:
    with pytest.raises(SettingsError) as refused:
        make(text)
    assert reason in str(refused.value) and "hidden" not in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_a_password_and_a_database(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as server:
        await server.ask("ACL SETUSER", "gate", "on", ">let:me@in", "~*", "&*", "+@all")
        address = f"redis://gate:let%3Ame%40in@127.0.0.1:{server.port}/5"
        async with cluster_of(2, address) as (one, two):
            await two.broker.subscribe(ROOM)
            await one.publish(ROOM)
            await until(lambda: two.got(ROOM) == [1])
        assert b"db5:" in await server.ask("INFO", "keyspace")
        with pytest.raises(LinkLost) as refused:
            await probe(f"redis://gate:wrong@127.0.0.1:{server.port}", RedisSettings(timeout=2))
        assert "wrong" not in str(refused.value)


async def test_a_wrong_password_is_named_as_the_reason(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as server:
        await server.ask("CONFIG SET", "requirepass", "secret")
        node = make(server.url, max_backoff=0.1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.broker.run)
            await until(lambda: "authenticate" in (node.broker.ready() or ""), "the reason")
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def behind_tls(server: RedisServer, context: ssl.SSLContext) -> AsyncIterator[int]:
    """A port where the server is reached over TLS."""

    async def pipe(
        source: trio.abc.ReceiveStream, sink: trio.abc.SendStream, scope: trio.CancelScope
    ) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some():
                await sink.send_all(data)
        scope.cancel()

    async def serve(secure: trio.SSLStream[trio.SocketStream]) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as plain, secure:
            async with trio.open_nursery() as both:
                both.start_soon(pipe, secure, plain, both.cancel_scope)
                both.start_soon(pipe, plain, secure, both.cancel_scope)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_ssl_over_tcp_listeners(
            0, context, host="127.0.0.1", https_compatible=True
        )
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield listener.transport_listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_tls(shared_redis: RedisServer, tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    for name, ca in (("right.pem", authority), ("wrong.pem", other)):
        ca.cert_pem.write_to_path(tmp_path / name)
    async with behind_tls(shared_redis, context) as port:
        address = f"rediss://localhost:{port}"
        async with cluster_of(2, address, ca_file=str(tmp_path / "right.pem")) as (one, two):
            await two.broker.subscribe(ROOM)
            await one.publish_many([(ROOM, {"data": "x" * 1000})] * 100)
            await until(lambda: 100 in two.got(ROOM))
        with pytest.raises(LinkLost, match="certificate verify failed"):
            await probe(address, RedisSettings(ca_file=str(tmp_path / "wrong.pem"), timeout=2))
    with pytest.raises(SettingsError, match=r"redis\.ca_file"):
        make(address, ca_file=str(tmp_path / "none.pem"))


async def test_what_check_finds(shared_redis: RedisServer, shared_cluster: str) -> None:
    for address in (shared_redis.url, shared_cluster):
        found = await probe(address, RedisSettings())
        assert found.text.startswith("valkey 9.") and "127.0.0.1" in found.text
        assert [risk.partition(":")[0] for risk in found.risks] == ["no append-only file"]
    with pytest.raises(LinkLost, match="cluster support disabled"):
        await probe(shared_redis.url.replace("redis://", "redis+cluster://"), RedisSettings())
    with pytest.raises(LinkLost):
        await probe(shared_redis.url.replace("redis://", "redis+sentinel://") + "/main", RedisSettings())
    with pytest.raises(LinkLost):
        await probe("redis+unix:///nowhere.sock", RedisSettings())
