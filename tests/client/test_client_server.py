"""On asyncio and on Trio, over real sockets, with a gateway in a thread: restarts, TLS, proxies."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import pytest
import trustme

from gateway.client import Backoff, Client, ConnectionFailed, ConnectionRefused, Lost, connect
from gateway.testing.server import Server, run_server

QUICK = Backoff(base=0.01, maximum=0.2, tries=1000)
LOOPS = ("asyncio", "trio")
TRANSPORTS = ("websocket", "sse", "poll")


@pytest.fixture
def server() -> Iterator[Server]:
    with run_server() as server:
        yield server


def run(loop: str, main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(60):
            await main()

    anyio.run(bounded, backend=loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_nothing_is_lost_over_restarts_on_any_transport(server: Server, loop: str) -> None:
    """The gateway goes and comes, while three clients listen, each in its way, and one publishes."""
    total = 60

    async def listen(transport: str, ready: anyio.Event, found: list[Any]) -> None:
        options: dict[str, Any] = {"transports": [transport], "reconnect": QUICK}
        async with connect(server.url, token=token, **options) as client:
            await client.join("r")
            ready.set()
            while len(found) < total:
                event = await anext(client)
                assert not isinstance(event, Lost)
                found.append(event.data)

    async def main() -> None:
        found: dict[str, list[Any]] = {transport: [] for transport in TRANSPORTS}
        async with (
            connect(server.url, token=token, reconnect=QUICK) as publisher,
            anyio.create_task_group() as tasks,
        ):
            for transport in TRANSPORTS:
                ready = anyio.Event()
                tasks.start_soon(listen, transport, ready, found[transport])
                await ready.wait()
            for number in range(total):
                if number == 30:
                    await anyio.to_thread.run_sync(server.stop)
                    await anyio.to_thread.run_sync(server.start)
                await publisher.publish("r", "x", number)
        assert found == {transport: list(range(total)) for transport in TRANSPORTS}

    token = server.token()
    run(loop, main)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_over_tls_on_asyncio(tmp_path: Path, transport: str) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    chain = tmp_path / "chain.pem"
    chain.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with run_server(tls={"certificate": str(chain), "key": str(tmp_path / "key.pem")}) as server:
        url = server.url.replace("http", "https")
        options: dict[str, Any] = {"token": server.token(), "transports": [transport], "retry_first": False}

        async def main() -> None:
            async with connect(url, ssl_context=context, **options) as client:
                await client.join("r")
                assert (await client.publish("r", "x")).seq == 1
            with pytest.raises(ConnectionFailed, match="certificate") as caught:
                async with connect(url, **options):
                    pytest.fail("connected")
            assert not caught.value.retry

        run("asyncio", main)


def test_what_asyncio_does_to_the_block(server: Server) -> None:
    """Timeouts and task groups of asyncio's own end it cleanly, and cancelling is not swallowed."""
    token = server.token()

    async def main() -> None:
        before = asyncio.all_tasks()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                async with connect(server.url, token=token) as client:
                    await anext(client)
        entered = asyncio.Event()

        async def hold() -> None:
            async with connect(server.url, token=token):
                entered.set()
                await asyncio.sleep(1000)

        holding = asyncio.create_task(hold())
        await entered.wait()
        holding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holding

        async def several(client: Client) -> None:
            async with asyncio.TaskGroup() as tasks:
                for number in range(20):
                    tasks.create_task(client.publish("r", "x", number))

        async with connect(server.url, token=token) as client:
            await client.join("r")
            await several(client)
            assert sorted([(await anext(client)).data for _ in range(20)]) == list(range(20))
        with pytest.raises(KeyError):
            async with connect(server.url, token=token):
                raise KeyError("mine")
        assert asyncio.all_tasks() == before

    asyncio.run(main())


class Proxy:
    """Answers upgrades with a page of its own, and passes other requests on, one for each connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.paths: list[str] = []

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            head = await stream.receive()
            while b"\r\n\r\n" not in head:
                head += await stream.receive()
            self.paths.append(head.split()[1].decode().partition("?")[0])
            if b"upgrade: websocket" in head.lower():
                page = b"<html>blocked by your administrator</html>"
                await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(page), page))
                return
            async with await anyio.connect_tcp("127.0.0.1", self._port) as far:
                await far.send(head)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._pass, stream, far, tasks.cancel_scope)
                    await self._pass(far, stream, tasks.cancel_scope)

    async def _pass(self, source: Any, sink: Any, scope: anyio.CancelScope) -> None:
        try:
            while True:
                await sink.send(await source.receive())
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            scope.cancel()


@pytest.mark.parametrize("loop", LOOPS)
def test_behind_a_proxy_that_knows_no_websockets(server: Server, loop: str) -> None:
    port = int(server.url.rpartition(":")[2])
    token = server.token()

    async def main() -> None:
        proxy = Proxy(port)
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, proxy.serve)
                async with connect(url, token=token) as client:
                    assert (client.transport, client.degraded) == ("sse", True)
                    await client.join("r")
                    await client.publish("r", "x", 1)
                    assert (await anext(client)).data == 1
                with pytest.raises(ConnectionRefused) as caught:
                    async with connect(url, token="forged", retry_first=False):
                        pytest.fail("connected")
                assert caught.value.status == 401
                tasks.cancel_scope.cancel()
        assert proxy.paths[:2] == ["/ws", "/api/v1/stream"]

    run(loop, main)
