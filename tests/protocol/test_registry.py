"""Own types of events: how they are named, what they are checked for, and what is published for one."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import msgspec
import pytest

from protocol.errors import ErrorCode, ProtocolError
from protocol.events import CATALOGUE, Custom, MessageNew, TaskCreated, TypedEvent
from protocol.registry import Emission, EventTypes, emission, event_type


class InvoicePaid(TypedEvent, frozen=True, kw_only=True):
    event = "invoice:paid"
    room = "billing"
    invoice: str
    amount: Annotated[float, msgspec.Meta(gt=0)]


@dataclass
class HTTPCallMade:
    path: str
    at: datetime.date
    tags: list[str] = field(default_factory=list)
    room: str = "a field, not where it goes"


@dataclass
class Moved:
    event: ClassVar[str] = "robot:moved"
    room: ClassVar[str] = "robots"
    needs_room: ClassVar[bool] = True
    x: int


def test_names_and_rooms() -> None:
    assert event_type(InvoicePaid) == ("invoice:paid", InvoicePaid, "billing", False)
    assert event_type(HTTPCallMade) == ("http_call_made", HTTPCallMade, None, False)
    assert event_type(Moved) == ("robot:moved", Moved, "robots", True)


def test_what_cannot_be_registered() -> None:
    types = EventTypes()

    class Any1(msgspec.Struct):
        event: ClassVar[str] = "a*"

    class Elsewhere(msgspec.Struct):
        room: ClassVar[str] = ""

    class Strange(msgspec.Struct):
        what: type[int]

    class TaskCreated(msgspec.Struct):
        """Of the name of one of the catalogue."""

    for kind, problem in (
        (dict, TypeError),
        (InvoicePaid(invoice="i", amount=1), TypeError),
        (Strange, TypeError),
        (Any1, ValueError),
        (Elsewhere, ValueError),
        (TaskCreated, ValueError),
    ):
        with pytest.raises(problem):
            types.register(kind)  # type: ignore[type-var]
    assert len(types) == len(CATALOGUE)


def test_registered_types_are_read_and_checked() -> None:
    types = EventTypes()
    assert types.register(InvoicePaid) is InvoicePaid
    types.register(InvoicePaid)
    types.register(HTTPCallMade)
    assert "invoice:paid" in types and {each.name for each in types} == {
        *CATALOGUE,
        "invoice:paid",
        "http_call_made",
    }
    paid = types.read("invoice:paid", {"invoice": "i7", "amount": 12, "ts": 5})
    assert paid == InvoicePaid(invoice="i7", amount=12, ts=5)
    call = types.read("http_call_made", {"path": "/", "at": "2031-05-06"})
    assert call == HTTPCallMade("/", datetime.date(2031, 5, 6))
    assert isinstance(types.read("task_created", {"task_id": "t"}), TaskCreated)
    assert types.read("other", [1]) == Custom("other", [1])
    for event, data, code in (
        ("invoice:paid", {"invoice": "i7"}, ErrorCode.MISSING_FIELD),
        ("invoice:paid", {"invoice": "i7", "amount": 0}, ErrorCode.BAD_FIELD),
        ("invoice:paid", None, ErrorCode.MISSING_FIELD),
        ("invoice:paid", "i7", ErrorCode.BAD_FIELD),
        ("other", {1}, ErrorCode.BAD_FIELD),
        ("*", 1, ErrorCode.BAD_EVENT),
    ):
        with pytest.raises(ProtocolError) as caught:
            types.read(event, data)
        assert caught.value.code is code
    types.check("other", {"anything": 1})
    with pytest.raises(ProtocolError):
        types.check("invoice:paid", {})


def test_what_is_published_for_an_object() -> None:
    paid = InvoicePaid(invoice="i7", amount=12, ts=5)
    assert emission(paid) == Emission("billing", "invoice:paid", {"invoice": "i7", "amount": 12, "ts": 5})
    assert emission(paid, room="other").room == "other"
    call = HTTPCallMade("/", datetime.date(2031, 5, 6))
    said = {"path": "/", "at": "2031-05-06", "tags": [], "room": "a field, not where it goes"}
    assert emission(call) == Emission(None, "http_call_made", said)
    assert emission(Moved(1)) == Emission("robots", "robot:moved", {"x": 1})
    assert emission(Custom("a", 1, "r")) == Emission("r", "a", 1)


@pytest.mark.parametrize(
    "event, problem",
    [
        (InvoicePaid(invoice="i7", amount=0), ErrorCode.BAD_FIELD),
        (MessageNew(text="hi"), ErrorCode.MISSING_FIELD),
        (HTTPCallMade(5, datetime.date(2031, 5, 6)), ErrorCode.BAD_FIELD),  # type: ignore[arg-type]
        (HTTPCallMade("\ud800", datetime.date(2031, 5, 6)), ErrorCode.BAD_FIELD),
        (Custom("*"), ErrorCode.BAD_EVENT),
    ],
)
def test_what_is_not_valid_is_not_published(event: Any, problem: ErrorCode) -> None:
    with pytest.raises(ProtocolError) as caught:
        emission(event)
    assert caught.value.code is problem


def test_bytes_are_no_value() -> None:
    @dataclass
    class Raw:
        body: bytes

    with pytest.raises(ProtocolError, match="a byte string is not a value"):
        emission(Raw(b"x"))


def test_what_is_published_for_a_name() -> None:
    types = EventTypes()
    types.register(InvoicePaid)
    made = types.emission("invoice:paid", {"invoice": "i7", "amount": 12, "later": [1]})
    assert made.room == "billing"
    assert isinstance(made.data["ts"], int)
    assert made.data == {"invoice": "i7", "amount": 12, "later": [1], "ts": made.data["ts"]}
    assert types.emission("invoice:paid", {"invoice": "i7", "amount": 12}, room="r").room == "r"
    with pytest.raises(ProtocolError) as caught:
        types.emission("other", {})
    assert caught.value.code is ErrorCode.NOT_FOUND


def test_the_reason_does_not_repeat_a_long_value() -> None:
    with pytest.raises(ProtocolError) as caught:
        EventTypes().read("system_alert", {"severity": "s" * 10_000, "message": "m"})
    assert len(caught.value.message) < 200
