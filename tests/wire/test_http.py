"""HTTP through hypercorn on accepted streams: what the adapter promises."""

from __future__ import annotations

import logging
import socket
import struct
from typing import Any

import pytest
import trio
import trio.testing

from gateway.testing.settings import make_settings
from gateway.wire.http import HttpServer
from tests.support import until
from tests.wire.http_peer import TestServer, echo, http_peer, http_server, lifespan, respond, watchful

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def post(body: bytes, *, length: int | None = None, path: bytes = b"/") -> bytes:
    size = len(body) if length is None else length
    return b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + body


async def ignore_body(scope: Any, receive: Any, send: Any) -> None:
    """Answer without reading the body, as frameworks do for 404 and 405."""
    await (lifespan(receive, send) if scope["type"] == "lifespan" else respond(send, b"{}", 404))


async def hang(scope: Any, receive: Any, send: Any) -> None:
    """Never answer; end when the client has gone, as ASGI frameworks do."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    else:
        while (await receive())["type"] != "http.disconnect":
            pass


async def all_gone(server: TestServer, connections: int) -> None:
    await until(lambda: server.served == connections, "the end of serve_stream")
    assert server.http.connections == 0


# --- requests and answers -------------------------------------------------------------------------


async def test_requests_follow_each_other_on_one_connection() -> None:
    async with http_server(echo) as server, http_peer(server.port) as peer:
        for size in (0, 1, 65536, 500_000):
            answer = await peer.ask(post(b"x" * size, path=b"/a%2Fb?q"))
            assert answer.status == 200
            told = answer.json()
            assert (told["method"], told["path"], told["size"]) == ("POST", "/a/b", size)
            assert (told["scheme"], told["client"]) == ("http", "127.0.0.1")
        assert "server" not in answer.headers
        assert (await peer.ask(GET)).json()["method"] == "GET"


@pytest.mark.parametrize("cut", [1, 10, len(GET) - 1, len(GET)])
async def test_bytes_that_were_read_before_are_replayed(cut: int) -> None:
    async with http_server(echo, first=GET[:cut]) as server, http_peer(server.port) as peer:
        if cut < len(GET):
            await peer.send(GET[cut:])
        answer = await peer.answer()
        assert answer is not None
        assert answer.json()["path"] == "/"


async def test_pipelined_requests_are_answered_in_order() -> None:
    requests = [post(b"x" * size) for size in (3, 1, 2)]
    async with http_server(echo, first=b"".join(requests) + GET) as server, http_peer(server.port) as peer:
        sizes = []
        for _ in range(4):
            answer = await peer.answer()
            assert answer is not None
            sizes.append(answer.json()["size"])
        assert sizes == [3, 1, 2, 0]


async def test_chunked_bodies_and_expectations() -> None:
    async with http_server(echo) as server, http_peer(server.port) as peer:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert (await peer.ask(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")).json()["size"] == 5
        await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        with trio.fail_after(60):
            assert (await peer.stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        assert (await peer.ask(b"ab")).json()["size"] == 2


@pytest.mark.parametrize(
    "request_",
    [GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), GET.replace(b"1.1", b"1.0")],
    ids=["close", "HTTP/1.0"],
)
async def test_the_connection_closes_when_the_client_asks(request_: bytes) -> None:
    async with http_server(watchful) as server:
        for _ in range(20):  # hypercorn alone forgets it in about half of the cases
            async with http_peer(server.port) as peer:
                assert (await peer.ask(request_)).status == 200
                assert await peer.ended()
        await all_gone(server, 20)


async def test_a_broken_head_behind_a_head_request_gets_a_whole_answer() -> None:
    async with http_server(echo) as server, http_peer(server.port) as peer:
        assert (await peer.ask(GET.replace(b"GET", b"HEAD"), "HEAD")).status == 200
        answer = await peer.ask(b"no head\r\n\r\n")
        assert (answer.status, answer.whole) == (400, True)
        assert b"100" in answer.body
        assert await peer.ended()


async def test_an_idle_connection_is_closed_after_any_number_of_requests() -> None:
    async with http_server(watchful, keep_alive=1.0) as server:
        for requests in (0, 1, 9):
            async with http_peer(server.port) as peer:
                for _ in range(requests):
                    assert (await peer.ask(GET)).status == 200
                assert await peer.ended()
        await all_gone(server, 3)


async def test_a_later_head_that_dribbles_is_cut_off() -> None:
    async with http_server(echo, keep_alive=0.2) as server, http_peer(server.port) as peer:
        await peer.ask(GET)
        with trio.fail_after(60), pytest.raises(trio.BrokenResourceError):
            while True:
                await peer.send(b"G")
                await trio.sleep(0.02)
        await all_gone(server, 1)


# --- answers before the request is over -----------------------------------------------------------


@pytest.mark.parametrize("application", [echo, ignore_body])
@pytest.mark.parametrize("body", [b"zz\r\n", b"3\r\nabc\r\n0\rx\r\n", b"3\r\nabcd\r\n0\r\n\r\n"])
async def test_a_body_that_breaks_off_its_framing_gets_one_whole_answer(
    application: Any, body: bytes
) -> None:
    """The parser refuses it while the application answers; whoever is first, its answer is not cut off."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with http_server(application) as server:
        for _ in range(20):
            async with http_peer(server.port) as peer:
                answer = await peer.ask(head + body)
                assert (answer.status in {400, 404}, answer.whole) == (True, True)
                assert await peer.ended()
        await all_gone(server, 20)


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_an_early_answer_arrives_and_the_connection_closes(size: int) -> None:
    async with http_server(ignore_body) as server:
        for _ in range(5):
            async with http_peer(server.port) as peer:
                await peer.send(post(b"", length=size))
                answer = await peer.ask(b"x" * (size - 1))  # the last byte never comes
                assert (answer.status, answer.whole) == (404, True)
                assert answer.headers["connection"] == "close"
                assert await peer.ended()
        await all_gone(server, 5)


@pytest.mark.parametrize("requests", [1, 3], ids=["one request", "others in line"])
async def test_a_peer_that_does_not_take_its_answer_is_given_up(requests: int) -> None:
    async def big(scope: Any, receive: Any, send: Any) -> None:
        await (lifespan(receive, send) if scope["type"] == "lifespan" else respond(send, b"x" * 30_000_000))

    async with http_server(big, send_timeout=0.2) as server, http_peer(server.port) as peer:
        await peer.send(GET * requests)
        await all_gone(server, 1)


async def test_requests_in_line_do_not_keep_a_peer_that_takes_nothing() -> None:
    """The application ends as soon as its client counts as gone; nobody takes the next request."""

    async def big(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(respond, send, b"x" * 30_000_000)
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()

    async with http_server(big, send_timeout=0.2) as server, http_peer(server.port) as peer:
        await peer.send(GET * 3)
        await all_gone(server, 1)


async def test_a_slow_peer_gets_its_answer_as_long_as_it_takes_some() -> None:
    async def big(scope: Any, receive: Any, send: Any) -> None:
        await (lifespan(receive, send) if scope["type"] == "lifespan" else respond(send, b"x" * 9_000_000))

    async with http_server(big, send_timeout=0.3) as server, http_peer(server.port) as peer:
        started = trio.current_time()
        await peer.send(GET)
        size = 0
        with trio.fail_after(60):
            while size < 9_000_000:
                size += len(await peer.stream.receive_some(500_000))
                await trio.sleep(0.03)
        assert trio.current_time() - started > 0.4


# --- clients that go away -------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("sent", [b"", b"G", GET[:-2], post(b"abc", length=9), GET])
async def test_a_client_that_goes_away_leaves_nothing(sent: bytes, reset: bool) -> None:
    async with http_server(hang) as server:
        async with http_peer(server.port) as peer:
            await peer.send(sent) if sent else None
            await until(lambda: server.http.connections == 1)
            if reset:
                linger = struct.pack("ii", 1, 0)
                peer.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)  # type: ignore[attr-defined]
        await all_gone(server, 1)


async def test_cancelling_the_task_closes_the_connection() -> None:
    async with http_server(hang) as server, http_peer(server.port) as peer:
        await peer.send(GET)
        await until(lambda: server.http.connections == 1)
        assert server.nursery is not None
        server.nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            assert await peer.ended()


# --- applications that fail -----------------------------------------------------------------------


async def test_a_crash_before_the_answer_is_a_problem(caplog: pytest.LogCaptureFixture) -> None:
    async def crash(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        raise RuntimeError("the inside")

    async with http_server(crash) as server:
        async with http_peer(server.port) as peer:
            for _ in range(2):
                answer = await peer.ask(GET)
                assert (answer.status, answer.json()["code"]) == (500, 500)
                assert b"inside" not in answer.body
        await all_gone(server, 1)
    assert "the inside" in caplog.text


async def test_a_crash_while_the_body_still_comes_is_a_problem(caplog: pytest.LogCaptureFixture) -> None:
    async def crash(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        # Until nothing moves any more: the queue to this application is full.
        await trio.testing.wait_all_tasks_blocked(0.05)
        raise RuntimeError("the inside")

    async with http_server(crash) as server:
        async with http_peer(server.port) as peer, trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, post(b"x" * 2_000_000, length=3_000_000))
            answer = await peer.answer()
            assert answer is not None
            assert (answer.status, answer.json()["code"]) == (500, 500)
        await all_gone(server, 1)


async def test_a_crash_within_the_answer_cuts_it_off(caplog: pytest.LogCaptureFixture) -> None:
    async def crash(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        headers = [(b"content-length", b"10")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("half-way")

    async with http_server(crash) as server, http_peer(server.port) as peer:
        answer = await peer.ask(GET)
        assert (answer.body, answer.whole) == (b"half", False)
        await all_gone(server, 1)
    assert "half-way" in caplog.text


# --- what is no HTTP/1.1 --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, 100),
        (b"GET / HTTP/1.1\r\n\r\n", 400, 100),  # no Host
        (b"GET / HTTP/1.1\r\nHost: x\r\nBad Name: y\r\n\r\n", 400, 100),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400, 100),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, 100),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501, 108),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505, 101),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, 101),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 20_000, 431, 404),
        (b"GET ?q HTTP/1.1\r\nHost: x\r\n\r\n", 400, 100),
    ],
)
async def test_what_cannot_be_served_gets_a_problem(request_: bytes, status: int, code: int) -> None:
    async with http_server(echo) as server:
        for before in (b"", GET):  # as the first request, and as a later one
            async with http_peer(server.port) as peer:
                if before:
                    await peer.ask(before)
                answer = await peer.ask(request_)
                assert answer.status == status
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.json()["code"] == code
        await all_gone(server, 2)


async def test_targets_in_all_forms_are_survived() -> None:
    async with http_server(echo) as server, http_peer(server.port) as peer:
        for target in (b"*", b"http://host/path?q", b"//", b"/%", b"/%ff%00", b"host:80", b"/" + b"a" * 9000):
            request_ = b"OPTIONS " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n"
            assert (await peer.ask(request_, "OPTIONS")).status == 200


@pytest.mark.parametrize("protocol", [b"h2c", b"foo/2", b"websocket"])
async def test_no_other_protocol_is_switched_to(protocol: bytes) -> None:
    upgrade = (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: " + protocol
        + b"\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n"
    )  # fmt: skip
    async with http_server(echo) as server, http_peer(server.port) as peer:
        for _ in range(3):
            assert (await peer.ask(upgrade)).json()["path"] == "/"
        assert server.upgrades == []


async def test_an_upgrade_on_a_kept_connection_is_handed_back() -> None:
    head = (
        b"GET /ws?token=t HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nX-Case: Kept\r\n\r\n"
    )
    async with http_server(echo) as server, http_peer(server.port) as peer:
        for _ in range(3):
            await peer.ask(GET)
        await peer.send(head + b"\x81\x80early")
        assert await peer.ended()
        await all_gone(server, 1)
        assert server.upgrades == [head + b"\x81\x80early"]


async def test_an_upgrade_that_was_not_taken_by_the_listener_is_served_as_plain_http() -> None:
    head = b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    async with http_server(echo, first=head) as server, http_peer(server.port) as peer:
        answer = await peer.answer()
        assert answer is not None
        assert answer.json()["path"] == "/ws"


# --- start and stop -------------------------------------------------------------------------------


async def test_stopping_closes_idle_connections_and_lets_requests_finish() -> None:
    entered, release = trio.Event(), trio.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        if scope["path"] == "/wait":
            entered.set()
            await release.wait()
        await respond(send, b"{}")

    async with (
        http_server(wait, keep_alive=60, shutdown_timeout=20) as server,
        http_peer(server.port) as idle,
        http_peer(server.port) as busy,
    ):
        await idle.ask(GET)
        await busy.ask(GET)
        await busy.send(GET.replace(b"/ ", b"/wait "))
        await entered.wait()
        server.http.stop()
        assert await idle.ended()
        release.set()
        answer = await busy.answer()
        assert answer is not None
        assert answer.whole
        assert answer.headers["connection"] == "close"
        assert await busy.ended()
        await all_gone(server, 2)


async def test_stopping_ends_a_connection_whose_next_request_is_there_already() -> None:
    entered, release = trio.Event(), trio.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        entered.set()
        await release.wait()
        await respond(send, b"{}")

    async with http_server(wait, shutdown_timeout=60) as server, http_peer(server.port) as peer:
        await peer.send(GET + GET)
        await entered.wait()
        server.http.stop()
        async with http_peer(server.port) as late:  # accepted just before, and heard only now
            await late.send(GET)
            release.set()
            answer = await late.answer()
            assert answer is not None
            assert answer.status == 200
            assert await late.ended()
        assert await peer.answer() is not None
        assert await peer.ended()
        await all_gone(server, 2)


async def test_stopping_cuts_off_what_does_not_end() -> None:
    async with http_server(hang, shutdown_timeout=0.2) as server, http_peer(server.port) as peer:
        await peer.send(GET)
        await until(lambda: server.http.connections == 1)
        server.http.stop()
        assert await peer.ended()
        await all_gone(server, 1)


async def test_stopping_cuts_off_a_send_that_is_stuck() -> None:
    async def big(scope: Any, receive: Any, send: Any) -> None:
        await (lifespan(receive, send) if scope["type"] == "lifespan" else respond(send, b"x" * 30_000_000))

    async with (
        http_server(big, send_timeout=60, shutdown_timeout=0.2) as server,
        http_peer(server.port) as peer,
    ):
        await peer.send(GET)
        await until(lambda: server.http.connections == 1)
        server.http.stop()
        await all_gone(server, 1)


async def test_run_is_the_lifespan_of_the_application(nursery: trio.Nursery) -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        for _ in range(2):
            message = await receive()
            seen.append(message["type"])
            await send({"type": f"{message['type']}.complete"})

    server = HttpServer(app, make_settings())
    async with trio.open_nursery() as inner:
        await inner.start(server.run)
        assert seen == ["lifespan.startup"]
        server.stop()
    assert seen == ["lifespan.startup", "lifespan.shutdown"]


async def test_a_failed_start_is_raised() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    server = HttpServer(app, make_settings())
    with pytest.raises(ExceptionGroup) as failed:
        await server.run()
    assert "no database" in str(failed.value.exceptions[0])


async def test_nothing_is_logged_of_peers_that_misbehave(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with http_server(echo) as server:
        for sent in (b"x", b"\x16\x03\x01", GET[:9], post(b"", length=5)):
            async with http_peer(server.port) as peer:
                await peer.send(sent)
        await all_gone(server, 4)
    assert not [record for record in caplog.records if record.name.startswith(("gateway", "hypercorn"))]
