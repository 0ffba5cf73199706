"""``GET /api/v1/stream``, read as EventSource reads it."""

from __future__ import annotations

import contextlib
from typing import Any

import httpx
import pytest
import trio

from gateway.app import Gateway
from gateway.auth.identity import Grants, Identity
from gateway.transports.cursor import Cursors
from tests.streams.support import Caller
from tests.support import running_gateway, until


async def test_a_stream_hears_what_a_socket_hears(gateway: Gateway) -> None:
    caller = Caller(gateway)
    async with caller.stream(join=["a", "b"]) as events:
        headers = events.headers
        assert headers["content-type"] == "text/event-stream"
        assert (headers["x-accel-buffering"], headers["cache-control"]) == ("no", "no-store")
        assert "content-length" not in headers and "transfer-encoding" not in headers
        hello = await events.next()
        assert (hello["t"], hello["data"]["user"], hello["data"]["org"]) == ("connected", "alice", "acme")
        replies = [await events.next() for _ in "ab"]
        assert [(each["t"], each["id"], each["room"]) for each in replies] == [
            ("reply", 1, "a"),
            ("reply", 2, "b"),
        ]
        for room in ("a", "b", None):
            await gateway.publish("acme", room, "e", {"of": room})
            event = await events.next()
            assert (event["t"], event.get("room"), event["data"]) == ("event", room, {"of": room})
        await gateway.send_to_user("acme", "alice", "own")
        assert (await events.next())["event"] == "own"
        shown = (await caller.get("/connections")).json()["connections"]
        assert [each["subprotocol"] for each in shown] == ["sse"]
        assert [each["room"] for each in shown[0]["rooms"]] == ["a", "b"]
    await until(lambda: not gateway.hub.connections and not gateway.sessions)


async def test_a_filter_a_ticket_and_a_token_in_the_query(gateway: Gateway) -> None:
    caller = Caller(gateway)
    ticket = await gateway.cluster.issue_ticket(await gateway.auth.verify(caller.token))
    caller.headers = {}
    for way in ({"ticket": ticket}, {"token": caller.token}):
        async with caller.stream(join="r", events=["x:*", "y"], **way) as events:
            await events.of("reply")
            for name in ("x:1", "z", "y"):
                await gateway.publish("acme", "r", name)
            assert [(await events.next())["event"] for _ in range(2)] == ["x:1", "y"]
    refused = await caller.get("/stream", ticket=ticket)
    assert (refused.status_code, refused.json()["code"]) == (401, 200)


@pytest.mark.parametrize("rooms", [["r"], ["r", "s"]])
async def test_a_graceful_end_loses_nothing_and_doubles_nothing(gateway: Gateway, rooms: list[str]) -> None:
    caller = Caller(gateway)
    numbers: list[int] = []
    last_id = ""

    async def flood() -> None:
        for number in range(300):
            await gateway.publish("acme", rooms[number % len(rooms)], "e", number)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        started = False
        with trio.fail_after(60):
            while len(numbers) < 300:
                async with caller.stream(join=rooms, last_id=last_id) as events:
                    replies = here = 0
                    # What one room missed comes before the next room's reply.
                    while replies < len(rooms) or (here < 40 and len(numbers) < 300):
                        message = await events.next()
                        replies += message["t"] == "reply"
                        if message["t"] == "event":
                            numbers.append(message["data"])
                            here += 1
                        if replies == len(rooms) and not started:
                            started = True
                            nursery.start_soon(flood)
                    for session in list(gateway.sessions):
                        session.close(1012, "somewhere else")
                    numbers += [each["data"] for each in await events.rest() if each["t"] == "event"]
                    last_id = events.last_id
    per_room = [[number for number in numbers if number % len(rooms) == place] for place in range(len(rooms))]
    assert per_room == [list(range(place, 300, len(rooms))) for place in range(len(rooms))]


async def test_a_stream_of_one_room_that_is_cut_off_goes_on_where_it_was(gateway: Gateway) -> None:
    caller = Caller(gateway)
    numbers: list[int] = []
    async with caller.stream(join="r") as events:
        await events.of("reply")
        for number in range(100):
            await gateway.publish("acme", "r", "e", number)
        while len(numbers) < 57:
            numbers.append((await events.of("event"))["data"])
        last_id = events.last_id
    await gateway.publish("acme", "r", "e", 100)
    async with caller.stream(join="r", last_id=last_id) as events:
        reply = await events.of("reply")
        assert reply["data"] == {"recovered": True, "replayed": 44}
        while len(numbers) < 101:
            numbers.append((await events.of("event"))["data"])
    assert numbers == list(range(101))


async def test_a_cursor_over_several_rooms_comes_with_each_event(gateway: Gateway) -> None:
    caller = Caller(gateway)
    async with caller.stream(join=["a", "b"]) as events:
        for _ in "ab":
            await events.of("reply")
        await gateway.publish("acme", "a", "e", 1)
        await events.of("event")
        last_id = events.last_id
    await gateway.publish("acme", "b", "e", 2)
    # The names in the query may come in another order, and new ones beside them.
    async with caller.stream(join=["new", "b", "a"], last_id=last_id) as events:
        replies = {each["room"]: each.get("data") for each in [await events.of("reply") for _ in range(3)]}
        assert replies == {
            "new": None,
            "b": {"recovered": True, "replayed": 1},
            "a": {"recovered": True, "replayed": 0},
        }


async def test_what_is_gone_from_history_is_announced() -> None:
    async with running_gateway(history={"messages": 3}) as gateway:
        caller = Caller(gateway)
        async with caller.stream(join="r") as events:
            await events.of("reply")
            await gateway.publish("acme", "r", "e", 0)
            await events.of("event")
        for number in range(1, 10):
            await gateway.publish("acme", "r", "e", number)
        async with caller.stream(join="r", last_id=events.last_id) as events:
            assert (await events.of("reply"))["data"]["recovered"] is False
            lost = await events.of("lost")
            assert (lost["data"]["from"], lost["data"]["to"]) == (2, 7)
            assert [(await events.of("event"))["seq"] for _ in range(3)] == [8, 9, 10]


async def test_bad_queries_are_refused_before_anything_is_sent(gateway: Gateway) -> None:
    caller, other = Caller(gateway), Caller(gateway, user="bob")
    foreign = Caller(gateway, org="globex")
    _, cursor = await caller.poll(join="r", timeout=0)
    for query, code in [
        ({"join": [f"r{number}" for number in range(33)]}, 400),
        ({"join": ""}, 105),
        ({"join": "r", "cursor": "A" * 40}, 104),
        ({"join": "r", "cursor": "é"}, 104),
        ({"join": "r", "cursor": cursor[:-4] + "AAAA"}, 104),
        ({"join": "r", "overflow": "none"}, 104),
        ({"join": "r", "overflow": "conflate", "key": "k" * 101}, 104),
        ({"join": "r", "cursor": _of_another_release(gateway)}, 104),
        ({"events": [f"e{number}" for number in range(65)]}, 401),
    ]:
        refused = await caller.get("/stream", **query)
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["code"] == code, refused.text
        assert refused.json()["status"] == refused.status_code in {400, 409}
    for who in (other, foreign):
        for path in ("/stream", "/poll"):
            refused = await who.get(path, join="r", cursor=cursor)
            assert refused.status_code == 400
            assert refused.json()["detail"].startswith("cursor: ")
    assert (await caller.get("/stream", headers={})).json()["code"] == 200
    for path in ("/stream", "/poll"):
        for size, status, code in ((2**20, 431, 404), (15_000, 400, 104)):
            headers = {**caller.headers, "Last-Event-ID": "x" * size}
            refused = await caller.get(path, headers=headers, join="r")
            assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert not gateway.hub.connections


def _of_another_release(gateway: Gateway) -> str:
    """A cursor as the gateway signs it, but of a format that it does not know."""
    cursors = Cursors(gateway.settings.auth)
    assert cursors.read(
        cursors.write({}, "acme", "alice"), Identity("acme", "alice", frozenset(), Grants.ALL)
    )
    return cursors._write(b"\x7f", b"", "acme", "alice").decode()


async def test_a_slow_reader_has_the_newest_of_each_key(gateway: Gateway) -> None:
    """``conflate`` by a field that the query names, as a join on a WebSocket does."""
    async with Caller(gateway).stream(join="r", overflow="conflate", key="item") as events:
        await events.of("reply")
        for _ in range(120):  # more than the sockets hold
            await gateway.publish("acme", "r", "fill", {"item": "fill", "pad": "x" * 60_000})
        for number in range(30):
            await gateway.publish("acme", "r", "e", {"item": number % 3, "n": number})
        seen: list[dict[str, Any]] = []
        reasons = set()
        while len(seen) < 3:
            message = await events.next()
            if message["t"] == "lost":
                reasons.add(message["data"]["reason"])
            elif message.get("event") == "e":
                seen.append(message["data"])
        assert seen == [{"item": number % 3, "n": number} for number in (27, 28, 29)]
        assert reasons == {"conflated"}


async def test_a_room_that_may_not_be_joined_is_an_error_in_the_stream(gateway: Gateway) -> None:
    caller = Caller(gateway, rooms={"ok": ["join"]})
    async with caller.stream(join=["no", "ok"]) as events:
        error = await events.of("error")
        assert (error["id"], error["room"], error["code"]) == (1, "no", 202)
        assert (await events.of("reply"))["room"] == "ok"


async def test_it_ends_with_its_token_and_with_the_node(gateway: Gateway) -> None:
    caller = Caller(gateway)
    async with caller.stream(join="r") as events:
        await events.of("reply")
        (session,) = gateway.sessions
        session.close(1008, "the token has expired")
        messages = await events.rest()
        assert (messages[-1]["t"], messages[-1]["code"]) == ("closing", 1008)
    async with caller.stream(join="r") as events:
        await events.of("reply")
        gateway.stop()
        messages = await events.rest()
        assert (messages[-1]["t"], messages[-1]["code"]) == ("closing", 1012)
        assert messages[-1]["data"]["retry_after"] > 0


async def test_a_slow_reader_is_bounded() -> None:
    async with running_gateway(limits={"queue_messages": 64, "queue_bytes": 65536}) as gateway:
        caller = Caller(gateway)
        stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
        async with stream:
            await stream.send_all(
                f"GET /api/v1/stream?join=r&token={caller.token} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            )
            await until(lambda: any(each.memberships for each in gateway.hub.connections.values()))
            with trio.fail_after(60):
                while gateway.hub.connections:
                    await gateway.publish("acme", "r", "e", "x" * 50_000)
            assert gateway.hub.counters.slow_closed == 1


async def test_nobody_reads_at_all_or_says_too_much(gateway: Gateway) -> None:
    caller = Caller(gateway)
    stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
    async with stream:
        await stream.send_all(f"GET /api/v1/stream?token={caller.token} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await until(lambda: len(gateway.hub.connections) == 1)
        with contextlib.suppress(trio.BrokenResourceError):
            for _ in range(64):
                await stream.send_all(b"x" * 4096)
        await until(lambda: not gateway.hub.connections)


async def test_comments_keep_it_alive() -> None:
    async with running_gateway(connection={"heartbeat": 0.05}) as gateway:
        caller = Caller(gateway)
        async with caller.stream(join="r") as events, trio.open_nursery() as nursery:
            await events.of("reply")

            @nursery.start_soon
            async def read() -> None:
                await events.of("event")

            await until(lambda: events.comments >= 3)
            nursery.cancel_scope.cancel()


async def test_a_kept_alive_connection_is_handed_over(gateway: Gateway) -> None:
    caller = Caller(gateway)
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=1)) as client:
        for _ in range(2):
            assert (await client.get(f"{caller.base}/stats", headers=caller.headers)).status_code == 200
        refused = len(gateway.http._open)
        assert refused == 1
        polled = await client.get(f"{caller.base}/poll?join=r&timeout=0", headers=caller.headers)
        assert polled.json()["messages"] == []
        assert (await client.get(f"{caller.base}/stats", headers=caller.headers)).status_code == 200
        async with client.stream("GET", f"{caller.base}/stream?join=r", headers=caller.headers) as response:
            assert response.headers["content-type"] == "text/event-stream"


async def test_pages_of_other_origins_may_read_as_on_the_rest_of_rest() -> None:
    async with running_gateway(allowed_origins=["https://app.example"]) as gateway:
        caller = Caller(gateway)
        for origin, status in (("https://app.example", 200), ("https://evil.example", 403)):
            headers = {**caller.headers, "Origin": origin}
            answer = await caller.get("/poll", headers=headers, join="r", timeout=0)
            assert answer.status_code == status
            assert answer.headers.get("access-control-allow-origin") == (origin if status == 200 else None)
        async with httpx.AsyncClient() as client:
            for path in ("/stream", "/poll", "/commands"):
                asked = await client.options(
                    caller.base + path,
                    headers={"Origin": "https://app.example", "Access-Control-Request-Method": "GET"},
                )
                assert asked.headers["access-control-allow-origin"] == "https://app.example"
                assert "Last-Event-ID" in asked.headers["access-control-allow-headers"]
