"""Typed events on every way in: registered, checked where the settings say so, typed at the receiver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
import pytest

from gateway import ProtocolError, TypedEvent
from gateway.app import Gateway
from gateway.client import Custom, EventTypes, connect
from gateway.config.settings import EventSettings
from gateway.operations.checked import CheckedEvents
from gateway.operations.events import Events
from gateway.testing.raw import RawClient
from protocol.codec import Codec
from protocol.errors import ErrorCode
from protocol.events import TaskStarted
from tests.client.scripted import take
from tests.rest.api import asking, problem, success
from tests.support import connected, running_gateway, url

PATTERNS = {
    "billing:*": {"types": ["invoice:*"], "strict": True},
    "loose:*": {"types": ["invoice:*", "task_*"]},
    "tasks": {},
}


class InvoicePaid(TypedEvent, frozen=True, kw_only=True):
    event = "invoice:paid"
    room = "billing:all"
    invoice: str
    amount: float


@dataclass
class RobotMoved:
    room: ClassVar[str] = "robots"
    x: int
    label: str = "home"


def checking(**more: Any) -> dict[str, Any]:
    return {"events": msgspec.convert({"patterns": PATTERNS}, EventSettings), **more}


GOOD = {"invoice": "i7", "amount": 12.5}
TRIED: list[tuple[str, str, Any, ErrorCode | None]] = [
    ("billing:1", "invoice:paid", GOOD, None),
    ("billing:1", "invoice:paid", {**GOOD, "later": True}, None),
    ("billing:1", "invoice:paid", {"invoice": "i7"}, ErrorCode.MISSING_FIELD),
    ("billing:1", "invoice:paid", {**GOOD, "amount": "12"}, ErrorCode.BAD_FIELD),
    ("billing:1", "invoice:paid", None, ErrorCode.MISSING_FIELD),
    ("billing:1", "invoice:lost", {}, ErrorCode.EVENT_NOT_ALLOWED),
    ("billing:1", "task_started", {"task_id": "t"}, ErrorCode.EVENT_NOT_ALLOWED),
    ("loose:1", "invoice:paid", {}, ErrorCode.MISSING_FIELD),
    ("loose:1", "invoice:lost", {}, None),
    ("loose:1", "alert_triggered", {}, None),
    ("tasks", "task_started", {"task_id": ""}, ErrorCode.BAD_FIELD),
    ("tasks", "anything", [1], None),
    ("elsewhere", "task_started", {"task_id": 5}, None),
]


async def over_a_socket(client: RawClient, room: str, event: str, data: Any) -> int | None:
    reply = await client.ask("publish", room=room, event=event, data=data)
    return None if reply.t == "reply" else reply.code


async def test_rooms_are_checked_on_every_way_in(codec: Codec) -> None:
    async with (
        running_gateway(**checking()) as gateway,
        connected(gateway, codec=codec) as alice,
        asking(gateway) as ask,
    ):
        gateway.events.register(InvoicePaid)
        for room, event, data, expected in TRIED:
            assert await over_a_socket(alice, room, event, data) == expected, (room, event, data)
            said = {"room": room, "event": event, "data": data}
            answer = await ask.post("/broadcast", said)
            assert (None if answer.status_code == 200 else answer.json()["code"]) == expected
            (result,) = success(await ask.post("/batch", {"operations": [{"op": "broadcast", **said}]}))[
                "results"
            ]
            assert (None if result["status"] == 200 else result["problem"]["code"]) == expected
            posted = success(await ask.post("/commands", {"v": 1, "t": "publish", "id": 1, **said}))
            assert posted["messages"][0].get("code") == expected
            try:
                await gateway.publish("acme", room, event, data)
            except ProtocolError as error:
                assert error.code is expected
            else:
                assert expected is None


async def test_it_costs_nothing_where_nothing_is_set(gateway: Gateway) -> None:
    """Not an instruction: what publishes is another class."""
    assert type(gateway.operations.events) is Events
    async with running_gateway(**checking()) as other:
        assert type(other.operations.events) is CheckedEvents


async def test_what_is_wrong_is_named() -> None:
    async with running_gateway(**checking()) as gateway, connected(gateway) as alice:
        gateway.events.register(InvoicePaid)
        reply = await alice.ask("publish", room="billing:1", event="invoice:paid", data={"invoice": 5})
        assert (reply.code, reply.message) == (104, "data.invoice: expected `str`, got `int`")
        reply = await alice.ask("publish", room="billing:1", event="other", data={})
        assert (reply.code, reply.room) == (ErrorCode.EVENT_NOT_ALLOWED, "billing:1")


async def test_rooms_of_executions_are_not_checked() -> None:
    patterns = {"*": {"types": ["message:*"], "strict": True}}
    async with running_gateway(events=msgspec.convert({"patterns": patterns}, EventSettings)) as gateway:
        for room in ("executions", "execution:7"):
            await gateway.publish("acme", room, "anything", {})
        with pytest.raises(ProtocolError):
            await gateway.publish("acme", "execution", "anything", {})


async def test_what_the_token_may_not_do_is_said_first() -> None:
    async with (
        running_gateway(**checking()) as gateway,
        connected(gateway, rooms={"chat:*": ["publish"]}) as alice,
        asking(gateway) as ask,
    ):
        assert await over_a_socket(alice, "billing:1", "other", {}) == ErrorCode.FORBIDDEN
        said = {"room": "billing:1", "event": "other", "org": "other"}
        problem(await ask.post("/broadcast", said), 403, 204)


async def test_own_types_stay_typed_at_the_receiver(gateway: Gateway) -> None:
    types = EventTypes()
    types.register(InvoicePaid)
    types.register(RobotMoved)
    token = gateway.auth.issue(org="acme", user="alice", roles=["service"]).token
    async with connect(url(gateway), token=token) as alice:
        for room in ("billing:all", "robots", "tasks"):
            await alice.join(room)
        paid = InvoicePaid(invoice="i7", amount=12, source="shop")
        await alice.emit(paid)
        await gateway.emit("acme", RobotMoved(3), sender="backend")
        await alice.emit_task_started(task_id="t1", agent_id="a7")
        await alice.publish("tasks", "own", [1])
        await alice.publish("tasks", "task_started", {"task_id": 5})
        received = await take(alice, 5)
        assert [each.typed(types) for each in received[:4]] == [
            paid,
            RobotMoved(3),
            TaskStarted(task_id="t1", agent_id="a7", ts=received[2].data["ts"]),
            Custom("own", [1]),
        ]
        assert received[1].data == {"x": 3, "label": "home"}
        assert isinstance(received[2].typed(), TaskStarted)
        assert received[0].typed() == Custom("invoice:paid", received[0].data)
        with pytest.raises(ValueError, match="task_id"):
            received[4].typed()


async def test_typed_events_by_rest(gateway: Gateway) -> None:
    gateway.events.register(InvoicePaid)
    async with asking(gateway) as ask, connected(gateway) as alice:
        for room in ("tasks", "billing:all", "conversation:7"):
            await alice.ask("join", room=room)
        changed = {"task_id": "t1", "status": "done", "source": "worker-3"}
        place = success(await ask.post("/events", {"event": "task_status_changed", "data": changed}))
        (event,) = await alice.settled()
        assert (event.room, event.event, event.seq) == ("tasks", "task_status_changed", place["seq"])
        assert event.data == {**changed, "ts": event.data["ts"]}
        paid = {**GOOD, "ts": 5, "later": 1}
        success(await ask.post("/events", {"event": "invoice:paid", "data": paid}))
        said = {"event": "message:new", "data": {"text": "hi"}}
        success(await ask.post("/events", {**said, "room": "conversation:7"}))
        success(
            await ask.post("/events", {"event": "system_alert", "data": {"severity": "info", "message": "m"}})
        )
        received = await alice.settled()
        assert [(each.room, each.data.get("ts")) for each in received[:1]] == [("billing:all", 5)]
        assert received[0].data == paid
        assert [each.room for each in received[1:]] == ["conversation:7", None]
        for body, code in (
            ({"event": "nothing", "data": {}}, ErrorCode.NOT_FOUND),
            ({"event": "task_started", "data": {}}, ErrorCode.MISSING_FIELD),
            ({"event": "task_started", "data": {"task_id": 1}}, ErrorCode.BAD_FIELD),
            (said, ErrorCode.MISSING_FIELD),
            ({"event": "a*"}, ErrorCode.BAD_EVENT),
        ):
            problem(await ask.post("/events", body), code.status, code)
        member = {"org": "acme", "user": "bob", "rooms": {"chat:*": ["publish"]}}
        body = {"event": "task_started", "data": {"task_id": "t1"}}
        problem(await ask.post("/events", body, claims=member), 403, 202)
