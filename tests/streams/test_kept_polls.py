"""Polls that follow one another on one connection."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from gateway.app import Gateway
from gateway.hub.connection import Connection
from gateway.transports import waiting
from gateway.wire.signal import Signal
from gateway.wire.wakes import Wakes
from tests.streams.support import Caller
from tests.support import DEADLINE, connected, running_gateway, until

SHORT = 0.05
"""Seconds that a poll waits in vain."""


class Kept:
    """One connection over which requests go one after the other."""

    def __init__(self, stream: trio.SocketStream, caller: Caller) -> None:
        self.stream = stream
        self.head: dict[str, str] = {}
        """Of the last answer."""
        self.status = 0
        self.token = caller.token
        self._unread = b""

    def request(self, path: str = "/poll", version: str = "1.1", lines: str = "", **query: Any) -> bytes:
        target = f"/api/v1{path}?{urlencode({'token': self.token, **query}, doseq=True)}"
        return f"GET {target} HTTP/{version}\r\nHost: localhost\r\n{lines}\r\n".encode()

    async def answer(self) -> Any:
        """The next answer's body; raises EOFError when the connection ends instead."""
        head = (await self._until(b"\r\n\r\n")).decode().splitlines()
        self.status = int(head[0].split()[1])
        self.head = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        size = int(self.head["content-length"])
        while len(self._unread) < size:
            await self._more()
        body, self._unread = self._unread[:size], self._unread[size:]
        return json.loads(body)

    async def _until(self, mark: bytes) -> bytes:
        while mark not in self._unread:
            await self._more()
        found, _, self._unread = self._unread.partition(mark)
        return found

    async def _more(self) -> None:
        with trio.fail_after(DEADLINE):
            chunk = await self.stream.receive_some(65536)
        if not chunk:
            raise EOFError
        self._unread += chunk

    async def ask(self, request: bytes) -> Any:
        await self.stream.send_all(request)
        return await self.answer()

    async def poll(self, **query: Any) -> tuple[list[dict[str, Any]], str]:
        found = await self.ask(self.request(**query))
        assert self.status == 200, found
        return found["messages"], found["cursor"]


@contextlib.asynccontextmanager
async def kept(caller: Caller) -> AsyncIterator[Kept]:
    async with await trio.open_tcp_stream("127.0.0.1", caller.port) as stream:
        yield Kept(stream, caller)


def the_one(gateway: Gateway) -> Connection:
    (connection,) = gateway.hub.connections.values()
    return connection


async def test_the_same_poll_goes_on_as_the_same_session(gateway: Gateway) -> None:
    async with kept(Caller(gateway)) as client:
        _, cursor = await client.poll(join="r", timeout=0)
        assert "connection" not in client.head
        again = partial(client.poll, join="r", cursor=cursor, timeout=SHORT)
        assert await again() == ([], cursor)
        session = the_one(gateway).id
        for _ in range(3):
            assert await again() == ([], cursor)
            assert the_one(gateway).id == session
        assert gateway.hub.counters.transports["poll"] == 5, "each of them counts"
        await client.stream.send_all(client.request(join="r", cursor=cursor, timeout=20))
        await until(lambda: the_one(gateway).id != session and bool(the_one(gateway).rooms))
        await gateway.publish("acme", "r", "e", 1)
        assert [each["data"] for each in (await client.answer())["messages"]] == [1]
    await until(lambda: not gateway.hub.connections and not gateway.sessions and not gateway.listener.open)


async def test_what_comes_between_two_polls_is_not_missed(gateway: Gateway) -> None:
    async with kept(Caller(gateway)) as client:
        _, cursor = await client.poll(join=["a", "b"], timeout=0)
        for number in range(10):
            again = partial(client.poll, join=["a", "b"], cursor=cursor, timeout=SHORT)
            assert await again() == ([], cursor)
            for room in ("a", "b", None):
                await gateway.publish("acme", room, "e", number)
            if number % 2:  # the session has ended; otherwise it may be asked to go on before it has
                await until(lambda: not gateway.hub.connections)
            messages, cursor = await again()
            assert [each["data"] for each in messages] == [number] * 3


async def test_a_poll_that_goes_on_is_answered_with_what_comes(gateway: Gateway) -> None:
    async with kept(Caller(gateway)) as client:
        _, cursor = await client.poll(join="r", timeout=0)
        request = client.request(join="r", cursor=cursor, timeout=SHORT)
        assert (await client.ask(request))["messages"] == []
        session = the_one(gateway)
        await client.stream.send_all(request)
        assert session.id in gateway.hub.connections
        await gateway.publish("acme", "r", "e", 1)
        found = await client.answer()
        while not found["messages"]:  # on a slow machine it may have ended before
            found = await client.ask(request)
        assert [each["data"] for each in found["messages"]] == [1]
        assert (await client.poll(join="r", cursor=found["cursor"], timeout=0)) == ([], found["cursor"])


async def test_a_flood_between_polls_arrives_once(gateway: Gateway) -> None:
    async with kept(Caller(gateway)) as client:
        found: list[int] = []
        _, cursor = await client.poll(join="r", timeout=0)

        async def flood() -> None:
            for number in range(60):
                await gateway.publish("acme", "r", "e", number)
                await trio.sleep(0.004)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            while len(found) < 60:
                messages, cursor = await client.poll(join="r", cursor=cursor, timeout=0.003)
                found += [each["data"] for each in messages]
        assert found == list(range(60))


@pytest.mark.parametrize(
    ("version", "lines"),
    [("1.0", ""), ("1.1", "Connection: Close\r\n"), ("1.1", "Content-Length: 0\r\n")],
    ids=["an old version", "asked for", "a body"],
)
async def test_who_does_not_stay(gateway: Gateway, version: str, lines: str) -> None:
    for timeout in (0, SHORT):
        async with kept(Caller(gateway)) as client:
            found = await client.ask(client.request(version=version, lines=lines, timeout=timeout))
            assert (client.status, client.head["connection"], found["messages"]) == (200, "close", [])
            with pytest.raises(EOFError):
                await client.answer()


async def test_a_request_that_did_not_wait_for_the_answer_is_dropped(gateway: Gateway) -> None:
    async with kept(Caller(gateway)) as client:
        await client.stream.send_all(2 * client.request(timeout=SHORT))
        assert (await client.answer())["messages"] == []
        assert client.head["connection"] == "close"
        with pytest.raises(EOFError):
            await client.answer()
    async with kept(Caller(gateway)) as client:
        await client.stream.send_all(client.request(join="r", timeout=20))
        await until(lambda: len(gateway.hub.connections) == 1 and bool(the_one(gateway).rooms))
        (session,) = gateway.sessions
        await client.stream.send_all(client.request(timeout=SHORT))
        await until(lambda: not getattr(session.transport, "stays", True))
        await gateway.publish("acme", "r", "e", 1)
        assert [each["data"] for each in (await client.answer())["messages"]] == [1]
        assert client.head["connection"] == "close"
        with pytest.raises(EOFError):
            await client.answer()


async def test_anything_may_follow_a_poll(gateway: Gateway) -> None:
    caller = Caller(gateway)
    bearer = f"Authorization: Bearer {caller.token}\r\n"
    async with kept(caller) as client:
        for timeout in (0, SHORT):
            assert (await client.poll(join="r", timeout=timeout))[0] == []
            assert "connections" in await client.ask(client.request("/connections", lines=bearer))
            # That has gone to the HTTP side, which hands the next poll back.
        request = client.request(join="r", timeout=SHORT)
        assert (await client.ask(request))["messages"] == []
        await client.stream.send_all(request[:40])
        await until(lambda: not gateway.hub.connections)
        await client.stream.send_all(request[40:])
        assert (await client.answer())["messages"] == []
        refused = await client.ask(client.request(timeout="soon"))
        assert (client.status, client.head["connection"], refused["code"]) == (400, "close", 104)


async def test_a_stream_may_follow_a_poll(gateway: Gateway) -> None:
    async with kept(Caller(gateway)) as client:
        await client.poll(join="r", timeout=SHORT)
        await client.stream.send_all(client.request("/stream", join="r"))
        assert b"200 OK" in await client._until(b"\r\n\r\n")
        assert b'"t":"connected"' in await client._until(b"\n\n")


async def test_who_left_rests_no_longer(gateway: Gateway) -> None:
    async with connected(gateway, user="bob") as bob:
        await bob.ask("join", room="r", data={"presence": True})
        async with kept(Caller(gateway)) as client:
            await client.poll(join="r", timeout=SHORT)
            assert len(gateway.hub.lingering) == 0, "the session is there itself"
            members = (await bob.ask("presence", room="r")).data["members"]
            assert [each["user"] for each in members] == ["alice", "bob"]
        await until(lambda: len(gateway.hub.connections) == 1)
        members = (await bob.ask("presence", room="r")).data["members"]
        assert [each["user"] for each in members] == ["alice", "bob"]
        assert len(gateway.hub.lingering) == 1


async def test_a_session_that_was_ended_does_not_go_on(gateway: Gateway) -> None:
    async with kept(Caller(gateway)) as client:
        request = client.request(join="r", timeout=SHORT)
        await client.ask(request)
        session = the_one(gateway).id
        gateway.hub.disconnect("acme", session)
        assert (await client.ask(request))["messages"] == []
        assert the_one(gateway).id != session
        assert len(gateway.hub.lingering) == 0


async def test_a_revoked_token_ends_it(gateway: Gateway) -> None:
    caller = Caller(gateway)
    admin = Caller(gateway, "root", roles=["admin"])
    async with kept(caller) as client:
        request = client.request(join="r", timeout=SHORT)
        assert (await client.ask(request))["messages"] == []
        async with httpx.AsyncClient() as http:
            done = await http.post(f"{admin.base}/auth/revoke", json={"user": "alice"}, headers=admin.headers)
        assert done.status_code < 300, done.text
        await client.ask(request)
        assert client.status == 401


async def test_a_ticket_is_good_once(gateway: Gateway) -> None:
    caller = Caller(gateway)
    async with kept(caller) as client:
        async with httpx.AsyncClient() as http:
            ticket = (await http.post(f"{caller.base}/auth/ticket", headers=caller.headers)).json()["ticket"]
        target = f"/api/v1/poll?join=r&timeout={SHORT}&ticket={ticket}"
        request = f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        assert (await client.ask(request))["messages"] == []
        assert "connection" not in client.head
        await client.ask(request)
        assert client.status == 401


async def test_polls_that_go_on_count_as_commands() -> None:
    async with running_gateway(rates={"commands_per_user": 0.1, "burst": 40.0}) as gateway:
        async with kept(Caller(gateway)) as client:
            statuses = []
            with contextlib.suppress(EOFError):
                for _ in range(8):
                    await client.ask(client.request(timeout=0.01))
                    statuses.append(client.status)
            assert statuses[0] == 200 and statuses[-1] == 429 and len(statuses) < 8


async def test_a_drain_ends_what_rests() -> None:
    async with running_gateway() as gateway, kept(Caller(gateway)) as resting:
        async with kept(Caller(gateway)) as between:
            await between.poll(timeout=0)
            await resting.poll(timeout=SHORT)
            gateway.stop()
            for client in (resting, between):
                with pytest.raises(EOFError):
                    await client.answer()


async def test_a_connection_on_which_nothing_follows_ends() -> None:
    async with running_gateway(limits={"keep_alive": 0.2}) as gateway:
        async with kept(Caller(gateway)) as client:
            await client.poll(timeout=0)
            with pytest.raises(EOFError):
                await client.answer()


async def test_rest_ends(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_REST", 0.1)
    async with kept(Caller(gateway)) as client:
        request = client.request(join="r", timeout=SHORT)
        assert (await client.ask(request))["messages"] == []
        await until(lambda: not gateway.hub.connections)
        assert len(gateway.hub.lingering) == 1
        assert (await client.ask(request))["messages"] == [], "the connection stays"


async def test_long_polls_end_on_a_beat(autojump_clock: MockClock) -> None:
    await trio.sleep(0.123)
    end = waiting._end(25.0)
    assert 24.9 <= end - trio.current_time() <= 25.0
    assert waiting._end(25.0, trio.current_time() + 0.01) == end
    assert waiting._end(4.0) == trio.current_time() + 4.0


async def test_many_wakes_come_in_turns(autojump_clock: MockClock) -> None:
    wakes, woken = Wakes(), []
    signals = [Signal() for _ in range(100)]

    async def wait(number: int) -> None:
        await signals[number].wait()
        woken.append(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wakes.run)
        async with trio.open_nursery() as waiters:
            for number in range(100):
                waiters.start_soon(wait, number)
            await trio.testing.wait_all_tasks_blocked()
            for signal in signals:
                wakes.wake(signal)
            assert len(wakes) > 80
            await trio.lowlevel.checkpoint()
            assert len(woken) < 20
        assert sorted(woken) == list(range(100)) and len(wakes) == 0
        nursery.cancel_scope.cancel()
