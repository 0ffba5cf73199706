"""What each command says on the wire, what it returns, and how it fails; in both codecs."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from trio.testing import MockClock

from gateway.client import (
    Client,
    CommandError,
    CommandTimeout,
    Event,
    Filter,
    HistoryPage,
    Joined,
    Lost,
    Member,
    Presence,
    Published,
    Refreshed,
    Sent,
    TooManyPending,
    UnexpectedReply,
)
from protocol.envelope import Envelope
from protocol.events import MessageNew, TaskCreated
from tests.client.loops import on_trio, settle
from tests.client.scripted import Peer, ScriptedGateway, beside, stuck_pair, take


@dataclass
class Alert:
    """A typed event."""

    level: str
    event: str = "alert_triggered"
    room: str | None = "system"

    def to_data(self) -> dict[str, str]:
        return {"level": self.level}


Call = Callable[[Client], Awaitable[Any]]
PAGE = {
    "events": [
        {"seq": 4, "event": "x", "data": 1, "ts": 5, "mid": "m", "sender": "bob"},
        {"seq": 5, "event": "y"},
    ],
    "more": True,
    "complete": False,
}
CASES: dict[str, tuple[Call, dict[str, Any], dict[str, Any], Any]] = {
    "join": (
        lambda c: c.join("r"),
        {"t": "join", "room": "r"},
        {"room": "r", "epoch": "e", "seq": 3},
        Joined(room="r", epoch="e", seq=3),
    ),
    "join with everything": (
        lambda c: c.join("r", events=["a:*", "b"], since=("e", 1), overflow="replay"),
        {
            "t": "join",
            "room": "r",
            "data": {"since": {"epoch": "e", "seq": 1}, "events": ["a:*", "b"], "overflow": "replay"},
        },
        {"room": "r", "epoch": "e", "seq": 3, "data": {"recovered": True, "replayed": 2}},
        Joined(room="r", epoch="e", seq=3, recovered=True, replayed=2),
    ),
    "join for no events": (
        lambda c: c.join("r", events=[]),
        {"t": "join", "room": "r", "data": {"events": []}},
        {"room": "r", "epoch": "e", "seq": 3},
        Joined(room="r", epoch="e", seq=3),
    ),
    "leave": (lambda c: c.leave("r"), {"t": "leave", "room": "r"}, {"room": "r"}, None),
    "subscribe": (
        lambda c: c.subscribe("a:*", "b"),
        {"t": "subscribe", "data": {"events": ["a:*", "b"]}},
        {"data": {"events": ["a:*", "b"], "except": ["a:x"]}},
        Filter(events=("a:*", "b"), excepted=("a:x",)),
    ),
    "unsubscribe": (
        lambda c: c.unsubscribe("all"),
        {"t": "unsubscribe", "data": {"events": ["all"]}},
        {"data": {"events": [], "except": []}},
        Filter(events=()),
    ),
    "publish": (
        lambda c: c.publish("r", "x", {"text": "hi"}, mid="m1"),
        {"t": "publish", "room": "r", "event": "x", "data": {"text": "hi"}, "mid": "m1"},
        {"room": "r", "seq": 4, "epoch": "e", "mid": "m1"},
        Published(room="r", epoch="e", seq=4, mid="m1"),
    ),
    "publish to the organisation": (
        lambda c: c.publish(None, "x", mid="m1"),
        {"t": "publish", "event": "x", "mid": "m1"},
        {"seq": 4, "epoch": "o"},
        Published(room=None, epoch="o", seq=4, mid="m1"),
    ),
    "publish what is critical": (
        lambda c: c.publish("r", "x", mid="m1", critical=True),
        {"t": "publish", "room": "r", "event": "x", "mid": "m1", "critical": True},
        {"room": "r", "seq": 4, "epoch": "e"},
        Published(room="r", epoch="e", seq=4, mid="m1"),
    ),
    "send to a user": (
        lambda c: c.send("x", [1, None], user="bob"),
        {"t": "send", "event": "x", "data": {"user": "bob", "data": [1, None]}},
        {"mid": "m", "data": {"connections": 2}},
        Sent(mid="m", connections=2),
    ),
    "send to a connection": (
        lambda c: c.send(connection="n1-2", event="x"),
        {"t": "send", "event": "x", "data": {"connection": "n1-2"}},
        {"mid": "m", "data": {"connections": 1}},
        Sent(mid="m", connections=1),
    ),
    "call": (
        lambda c: c.call("pause", {"id": 7}),
        {"t": "call", "event": "pause", "data": {"id": 7}},
        {"data": [True]},
        [True],
    ),
    "typing": (
        lambda c: c.typing("r"),
        {"t": "typing", "room": "r", "data": {"state": "start"}},
        {"room": "r"},
        None,
    ),
    "typing no more": (
        lambda c: c.typing("r", start=False),
        {"t": "typing", "room": "r", "data": {"state": "stop"}},
        {"room": "r"},
        None,
    ),
    "ack": (lambda c: c.ack("r", 9), {"t": "ack", "room": "r", "seq": 9}, {"room": "r", "seq": 9}, None),
    "history": (
        lambda c: c.history("r", since=("e", 3), limit=2),
        {"t": "history", "room": "r", "data": {"since": {"epoch": "e", "seq": 3}, "limit": 2}},
        {"room": "r", "epoch": "e", "seq": 9, "data": PAGE},
        HistoryPage(
            room="r",
            epoch="e",
            seq=9,
            more=True,
            complete=False,
            events=(
                Event(event="x", room="r", data=1, seq=4, epoch="e", ts=5, mid="m", sender="bob"),
                Event(event="y", room="r", seq=5, epoch="e"),
            ),
        ),
    ),
    "history from the end": (
        lambda c: c.history("r"),
        {"t": "history", "room": "r"},
        {"room": "r", "epoch": "e", "seq": 0, "data": {"events": [], "more": False, "complete": True}},
        HistoryPage(room="r", epoch="e", seq=0, more=False, complete=True, events=()),
    ),
    "presence": (
        lambda c: c.presence("r"),
        {"t": "presence", "room": "r"},
        {"room": "r", "data": {"members": [{"user": "bob", "connections": 2}], "connections": 3}},
        Presence(members=(Member(user="bob", connections=2),), connections=3),
    ),
    "info": (lambda c: c.info(), {"t": "info"}, {"data": {"org": "acme"}}, {"org": "acme"}),
    "stats": (lambda c: c.stats(), {"t": "stats"}, {"data": {"connections": 1}}, {"connections": 1}),
    "refresh": (
        lambda c: c.refresh("new"),
        {"t": "refresh", "data": {"token": "new"}},
        {"data": {"expires": 1760003600000, "left": ["closed"]}},
        Refreshed(expires=1760003600000, left=("closed",)),
    ),
    "emit": (
        lambda c: c.emit(Alert("high")),
        {"t": "publish", "room": "system", "event": "alert_triggered", "data": {"level": "high"}},
        {"room": "system", "seq": 1, "epoch": "e", "mid": "m"},
        Published(room="system", epoch="e", seq=1, mid="m"),
    ),
    "emit elsewhere": (
        lambda c: c.emit(Alert("low"), room="other"),
        {"t": "publish", "room": "other", "event": "alert_triggered", "data": {"level": "low"}},
        {"room": "other", "seq": 1, "epoch": "e", "mid": "m"},
        Published(room="other", epoch="e", seq=1, mid="m"),
    ),
}


def said(envelope: Envelope) -> dict[str, Any]:
    """The fields of a command but its id."""
    fields = {name: getattr(envelope, name) for name in envelope.__struct_fields__ if name not in ("v", "id")}
    return {name: value for name, value in fields.items() if value is not None}


@pytest.mark.parametrize("codec", ["cbor", "json"])
@pytest.mark.parametrize("name", CASES)
async def test_shape_and_result(scripted: ScriptedGateway, name: str, codec: str) -> None:
    call, wanted, reply, result = CASES[name]
    async with scripted.connect(codec=codec) as client:
        peer = await scripted.peer()
        async with beside(partial(peer.answer, **reply)):
            assert await call(client) == result
    (command,) = peer.commands
    assert command.id is not None
    fields = said(command)
    if name.startswith("emit"):
        assert len(fields.pop("mid")) == 32
    assert fields == wanted


@pytest.mark.parametrize("codec", ["cbor", "json"])
async def test_ping_measures_the_round_trip(scripted: ScriptedGateway, clock: MockClock, codec: str) -> None:
    async with scripted.connect(codec=codec) as client:
        peer = await scripted.peer()

        async def pong_later() -> None:
            command = await peer.receive()
            await anyio.sleep(1.5)
            await peer.reply(command, "pong", ts=1)

        async with beside(pong_later):
            assert await client.ping() == 1.5
    assert [said(command) for command in peer.commands] == [{"t": "ping"}]


@pytest.mark.parametrize("codec", ["cbor", "json"])
async def test_events_arrive_as_they_are(scripted: ScriptedGateway, codec: str) -> None:
    fields = {"room": "r", "event": "x", "data": {"a": [1.5, None, "ü"]}, "seq": 4, "epoch": "e", "ts": 5}
    async with scripted.connect(codec=codec) as client:
        peer = await scripted.peer()
        await peer.send("event", **fields, mid="m", sender="bob", critical=True)
        await peer.send("event", event="direct")
        await peer.send("lost", room="r", epoch="e", data={"from": 5, "to": 9, "reason": "slow"})
        assert await take(client, 3) == [
            Event(**fields, mid="m", sender="bob", critical=True),
            Event(event="direct"),
            Lost(room="r", epoch="e", from_seq=5, to_seq=9, reason="slow"),
        ]


async def test_events_of_the_catalogue(scripted: ScriptedGateway) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        event = TaskCreated(task_id="t1", title="Sort")
        async with beside(partial(peer.answer, room="tasks", epoch="e", seq=1)):
            await client.emit(event)
        (command,) = peer.commands
        assert (command.room, command.event, command.data) == ("tasks", "task_created", event.to_data())
        with pytest.raises(ValueError, match="needs a room"):
            await client.emit(MessageNew(text="hi"))
        with pytest.raises(ValueError, match="task"):
            await client.emit(TaskCreated(task_id=""))


async def test_every_publish_has_a_message_id_of_its_own(scripted: ScriptedGateway) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        for _ in range(2):
            async with beside(partial(peer.answer, seq=1, epoch="e")):
                published = await client.publish("r", "x")
            assert published.mid == peer.commands[-1].mid
    assert len({command.mid for command in peer.commands}) == 2


async def test_replies_may_come_in_any_order(scripted: ScriptedGateway) -> None:
    results: dict[str, Any] = {}
    async with scripted.connect() as client:
        peer = await scripted.peer()

        async def call(name: str) -> None:
            results[name] = await client.call(name)

        async with anyio.create_task_group() as nursery:
            for name in "abc":
                nursery.start_soon(call, name)
            for command in reversed([await peer.receive() for _ in range(3)]):
                await peer.reply(command, data=command.event)
    assert results == {"a": "a", "b": "b", "c": "c"}


async def test_a_numbered_error_is_raised(scripted: ScriptedGateway) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        async with beside(
            partial(peer.answer, "error", code=300, message="too fast", data={"retry_after": 2.5})
        ):
            with pytest.raises(CommandError, match="300: too fast") as caught:
                await client.publish("r", "x")
        error = caught.value
        assert (error.code, error.message, error.retry_after) == (300, "too fast", 2.5)
        async with beside(partial(peer.answer, "error", code=205, message="not joined")):
            with pytest.raises(CommandError) as caught:
                await client.typing("r")
        assert caught.value.retry_after is None


async def test_a_refused_join_is_not_a_room(scripted: ScriptedGateway) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        async with beside(partial(peer.answer, "error", code=202, message="no")):
            with pytest.raises(CommandError):
                await client.join("r")
        assert client.rooms == ()
        async with beside(partial(peer.answer, room="r", epoch="e", seq=0)):
            await client.join("r")
        assert client.rooms == ("r",)


async def test_no_reply_in_time(scripted: ScriptedGateway, clock: MockClock) -> None:
    async with scripted.connect(command_timeout=3.0, heartbeat=1000.0) as client:
        peer = await scripted.peer()
        began = anyio.current_time()
        with pytest.raises(CommandTimeout, match=r"info: no reply within 3 s$"):
            await client.info()
        assert anyio.current_time() - began == 3.0
        with pytest.raises(CommandTimeout, match="call"):
            await client.call("slow", timeout=60.0)
        assert anyio.current_time() - began == 63.0
        # The late replies disturb nobody.
        for _ in range(2):
            await peer.answer(data="late")
        async with beside(partial(peer.answer, data="in time")):
            assert await client.info() == "in time"


async def test_a_late_reply_to_join_still_counts(scripted: ScriptedGateway, clock: MockClock) -> None:
    """The gateway let the client in, so the client must know, to rejoin."""
    async with scripted.connect(command_timeout=3.0) as client:
        peer = await scripted.peer()
        with pytest.raises(CommandTimeout):
            await client.join("r")
        await peer.answer(room="r", epoch="e", seq=0)
        await peer.event(1)
        await take(client, 1)
        assert client.rooms == ("r",)


async def test_commands_in_flight_are_bounded(scripted: ScriptedGateway) -> None:
    async with scripted.connect(max_pending=2) as client, anyio.create_task_group() as nursery:
        peer = await scripted.peer()
        for _ in range(2):
            nursery.start_soon(client.info)
        commands = [await peer.receive() for _ in range(2)]
        with pytest.raises(TooManyPending):
            await client.info()
        for command in commands:
            await peer.reply(command)


async def test_joins_that_nobody_waits_for_are_bounded(scripted: ScriptedGateway, clock: MockClock) -> None:
    async with scripted.connect(max_pending=2, command_timeout=1.0) as client:
        for _ in range(2):
            with pytest.raises(CommandTimeout):
                await client.join("r")
        with pytest.raises(TooManyPending):
            await client.join("r")


async def test_too_large_is_refused_before_the_gateway_closes_over_it(scripted: ScriptedGateway) -> None:
    scripted.welcome["limits"] = {"message_bytes": 1000}
    async with scripted.connect() as client:
        peer = await scripted.peer()
        with pytest.raises(CommandError) as caught:
            await client.publish("r", "x", "a" * 1000)
        assert caught.value.code == 404
        async with beside(partial(peer.answer, seq=1, epoch="e")):
            await client.publish("r", "x", "a" * 900)


@pytest.mark.parametrize("bad", [math.nan, 2**63, b"bytes", {1: 2}, "\ud800", {"set": {1}}])
@pytest.mark.parametrize("codec", ["cbor", "json"])
async def test_data_outside_the_value_model_is_refused(
    scripted: ScriptedGateway, codec: str, bad: object
) -> None:
    async with scripted.connect(codec=codec) as client:
        with pytest.raises(ValueError, match="data"):
            await client.publish("r", "x", {"nested": bad})


async def test_data_too_deep_is_refused(scripted: ScriptedGateway) -> None:
    deep: list[Any] = []
    for _ in range(20):
        deep = [deep]
    async with scripted.connect() as client:
        with pytest.raises(ValueError, match="deep"):
            await client.publish("r", "x", deep)


async def test_wrong_arguments(scripted: ScriptedGateway) -> None:
    async with scripted.connect() as client:
        with pytest.raises(ValueError, match="a user or a connection"):
            await client.send("x")
        with pytest.raises(ValueError, match="a user or a connection"):
            await client.send("x", user="a", connection="b")
        with pytest.raises(TypeError, match="several patterns"):
            await client.join("r", events="message:*")


MALFORMED: dict[str, tuple[Call, dict[str, Any]]] = {
    "join without position": (lambda c: c.join("r"), {"room": "r"}),
    "join with data that is no map": (
        lambda c: c.join("r"),
        {"room": "r", "epoch": "e", "seq": 1, "data": 1},
    ),
    "subscribe without filter": (lambda c: c.subscribe("x"), {}),
    "history without events": (lambda c: c.history("r"), {"room": "r", "epoch": "e", "seq": 1}),
    "history with an event that is none": (
        lambda c: c.history("r"),
        {"room": "r", "epoch": "e", "seq": 1, "data": {"events": [1], "more": False, "complete": True}},
    ),
    "presence without members": (lambda c: c.presence("r"), {"data": {"connections": 1}}),
    "send without a count": (lambda c: c.send("x", user="u"), {"mid": "m"}),
    "refresh with a text": (lambda c: c.refresh("x"), {"data": {"expires": "soon"}}),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_reply_fails_its_command_only(scripted: ScriptedGateway, name: str) -> None:
    call, reply = MALFORMED[name]
    async with scripted.connect() as client:
        peer = await scripted.peer()
        async with beside(partial(peer.answer, **reply)):
            with pytest.raises(UnexpectedReply):
                await call(client)
        async with beside(partial(peer.answer, data="alive")):
            assert await client.info() == "alive"
        assert client.rooms == ()


async def test_a_reply_that_is_no_envelope_fails_its_command_only(scripted: ScriptedGateway) -> None:
    async with scripted.connect(codec="json") as client:
        peer = await scripted.peer()

        async def nonsense() -> None:
            command = await peer.receive()
            await peer.raw('{"v":1,"t":"from the future"}')
            await peer.raw(f'{{"v":1,"t":"reply","id":{command.id},"seq":"four"}}')

        async with beside(nonsense):
            with pytest.raises(UnexpectedReply, match="seq"):
                await client.info()
        async with beside(partial(peer.answer, data="alive")):
            assert await client.info() == "alive"


@on_trio
async def test_a_command_cancelled_in_the_queue_is_not_sent(scripted: ScriptedGateway) -> None:
    stuck, pair = stuck_pair()
    scripted.pair = lambda: pair
    async with scripted.connect() as client, anyio.create_task_group() as nursery:
        peer = await scripted.peer()
        stuck.stuck = True
        nursery.start_soon(client.info)
        await settle()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as cancelled:
                cancelled.start_soon(client.publish, "r", "cancelled")
                await settle()
                scope.cancel()
        stuck.stuck = False
        stuck.released.set()
        await peer.answer(data=1)
        async with beside(partial(peer.answer, data=2)):
            await client.stats()
    assert [command.t for command in peer.commands] == ["info", "stats"]


async def test_commands_that_timed_out_make_room_for_others(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    async with scripted.connect(max_pending=2, command_timeout=1.0) as client:
        for _ in range(10):
            with pytest.raises(CommandTimeout):
                await client.info()


async def test_a_cancelled_command_that_was_not_sent_never_is(scripted: ScriptedGateway) -> None:
    """Also after a reconnect: nothing is queued for a caller that has gone."""
    async with scripted.connect() as client:
        peer: Peer = await scripted.peer()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await client.publish("r", "cancelled")
        async with beside(partial(peer.answer, data=1)):
            await client.info()
    assert [command.t for command in peer.commands] == ["info"]


async def test_refresh_is_what_the_next_connection_uses(scripted: ScriptedGateway, clock: MockClock) -> None:
    async with scripted.connect(token="old") as client:
        peer = await scripted.peer()
        assert peer.headers["authorization"] == "Bearer old"
        async with beside(partial(peer.answer, data={"expires": 5})):
            await client.refresh("new")
        assert client.connection.expires == 5
        await peer.drop()
        assert (await scripted.peer()).headers["authorization"] == "Bearer new"


async def test_refresh_does_not_take_the_place_of_a_callable(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    async def fresh() -> str:
        await anyio.lowlevel.checkpoint()
        return "fresh"

    async with scripted.connect(token=fresh) as client:
        peer = await scripted.peer()
        async with beside(partial(peer.answer, data={})):
            assert await client.refresh("given") == Refreshed()
        await peer.drop()
        assert (await scripted.peer()).headers["authorization"] == "Bearer fresh"
