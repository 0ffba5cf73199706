"""A whole session over something that is no WebSocket: lines of JSON, without a socket or a frame."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from gateway.app import Gateway
from gateway.session.services import Client, Services
from gateway.session.session import Session
from gateway.wire.outbox import Outbox
from protocol.encoding import Encoding
from protocol.envelope import Envelope
from protocol.errors import CloseCode
from protocol.json import JSON
from tests.support import until


class Lines:
    """An encoding: each envelope is one line of JSON."""

    subprotocol = "lines"
    binary = False

    def encode(self, envelope: Envelope) -> bytes:
        return JSON.encode(envelope) + b"\n"


LINES = Lines()


class Paper(trio.abc.SendStream):
    """Keeps what is written on it."""

    def __init__(self) -> None:
        self.text = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.text += bytes(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class LineTransport:
    """A ``gateway.session.transport.Transport`` onto paper."""

    kind = "lines"

    def __init__(self, gateway: Gateway, nursery: trio.Nursery) -> None:
        limits = gateway.settings.limits
        self.outbox = Outbox(
            gateway.hub.flusher, None, max_messages=limits.queue_messages, max_bytes=limits.queue_bytes
        )
        self.close_code = 1006
        self.received_messages = 0
        self.received_bytes = 0
        self.reasons: list[str] = []
        self.rescheduled = 0
        self._nursery = nursery
        self._paper = Paper()
        nursery.start_soon(self.outbox.write_stream, self._paper)

    @property
    def closing(self) -> bool:
        return self.outbox.sealed

    def close(self, code: int, reason: str = "", *, flush_timeout: float = 0.0) -> None:
        self.close_code = int(code)
        self.reasons.append(reason)
        self.outbox.seal(b"END\n")

    def spawn(self, function: Callable[[], Awaitable[None]]) -> None:
        self._nursery.start_soon(function)

    def reschedule(self) -> None:
        self.rescheduled += 1

    async def lines(self) -> list[bytes]:
        """What was written since the last time."""
        self.outbox.flush()
        await trio.testing.wait_all_tasks_blocked()
        lines, self._paper.text = self._paper.text.splitlines(), b""
        return lines


class Visitor:
    """One session over lines."""

    def __init__(self, gateway: Gateway, nursery: trio.Nursery, user: str) -> None:
        encoding: Encoding = LINES
        services: Services = gateway.upgrade._services
        self.user = user
        self.transport = LineTransport(gateway, nursery)
        self.session = Session(services, self.transport, JSON, encoding, Client("192.0.2.1"))

    async def enter(self, gateway: Gateway) -> Envelope:
        token = gateway.auth.issue(org="acme", user=self.user).token
        await self.session.admit(await gateway.auth.verify(token))
        (greeting,) = await self.heard()
        return greeting

    async def say(self, t: Any, **fields: Any) -> list[Envelope]:
        """Give the session one message, as its transport does; returns what it says to that."""
        message = JSON.encode(Envelope(t, id=1, **fields))
        self.transport.received_messages += 1
        self.transport.received_bytes += len(message)
        work = self.session.on_message(message, text=True)
        if work is not None:
            await work
        return await self.heard()

    async def heard(self) -> list[Envelope]:
        return [JSON.decode(line) for line in await self.transport.lines()]


async def test_a_session_over_lines(gateway: Gateway, nursery: trio.Nursery) -> None:
    alice, bob = (Visitor(gateway, nursery, name) for name in ("alice", "bob"))
    for visitor in (alice, bob):
        greeting = await visitor.enter(gateway)
        assert (greeting.t, greeting.data["user"], greeting.data["org"]) == (
            "connected",
            visitor.user,
            "acme",
        )
        (joined,) = await visitor.say("join", room="r", data={"presence": True})
        assert (joined.t, joined.room) == ("reply", "r")
    assert [(each.t, each.event) for each in await alice.heard()] == [("presence", "join")]

    (event, reply) = await alice.say("publish", room="r", event="e", data={"n": 1})
    assert (event.t, event.seq, event.sender, event.data) == ("event", 1, "alice", {"n": 1})
    assert (reply.t, reply.seq, reply.epoch) == ("reply", 1, event.epoch)
    assert await bob.heard() == [event]
    (page,) = await bob.say("history", room="r")
    assert [each["seq"] for each in page.data["events"]] == [1]
    (refused,) = await bob.say("publish", room="r")
    assert (refused.t, refused.code, refused.id) == ("error", 103, 1)
    (info,) = await bob.say("info")
    assert (info.data["subprotocol"], info.data["ip"]) == ("lines", "192.0.2.1")
    assert info.data["messages_in"] == bob.transport.received_messages

    await alice.say("typing", room="r")
    assert alice.transport.rescheduled, "its typing stops before anything else is due"
    assert [each.event for each in await bob.heard()] == ["typing:start"]

    alice.session.close(CloseCode.SERVICE_RESTART, "moving house", retry_after=1.0)
    closing, end = await alice.transport.lines()
    told = JSON.decode(closing)
    assert (told.t, told.code, told.message) == ("closing", 1012, "moving house")
    assert told.data["reconnect"] is True and told.data["resume"] == alice.session.resume_token
    assert (end, alice.transport.close_code, alice.transport.reasons) == (b"END", 1012, ["moving house"])
    assert alice.transport.closing
    alice.session.ended()
    assert [(each.t, each.event) for each in await bob.heard()] == [
        ("event", "typing:stop"),
        ("presence", "leave"),
    ]

    # What it had can be taken over by a session on another transport.
    again = Visitor(gateway, nursery, "alice")
    await again.enter(gateway)
    resumed, replayed = await again.say("join", data={"resume": told.data["resume"]})
    assert resumed.data["rooms"]["r"]["recovered"] is True
    assert (replayed.t, replayed.seq) == ("event", 1), "it was never acknowledged"
    for visitor in (bob, again):
        visitor.session.ended()
    await until(lambda: not gateway.hub.connections)


@pytest.mark.parametrize("first", ["ping", "auth"])
async def test_the_token_may_come_first(first: str, gateway: Gateway, nursery: trio.Nursery) -> None:
    visitor = Visitor(gateway, nursery, "alice")
    visitor.session.require_auth()
    assert visitor.session.deadline < float("inf")
    token = gateway.auth.issue(org="acme", user="alice").token
    heard = await visitor.say(first, data={"token": token}) if first == "auth" else []
    if first == "auth":
        assert [each.t for each in heard] == ["connected"]
        visitor.session.ended()
    else:
        visitor.session.on_message(JSON.encode(Envelope("ping")), text=True)
        assert visitor.transport.close_code == CloseCode.POLICY_VIOLATION
