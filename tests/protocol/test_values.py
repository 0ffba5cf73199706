from __future__ import annotations

import enum
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given

from protocol.cbor import CBOR
from protocol.envelope import Envelope
from protocol.errors import CloseCode, ErrorCode, ProtocolError
from protocol.json import JSON
from protocol.values import check_event_data, check_value, find_problem, footprint
from tests.protocol.strategies import values, wrap


class Colour(enum.IntEnum):
    RED = 1


@given(values)
def test_every_value_of_the_model_is_good(value: Any) -> None:
    assert check_value(value) is value


@pytest.mark.parametrize(
    "value", [-(2**63), 2**63 - 1, 1.7976931348623157e308, -1.7976931348623157e308, 5e-324, ""]
)
def test_the_limits_belong_to_the_model(value: object) -> None:
    assert check_value([value]) == [value]


def test_tuples_travel_as_arrays() -> None:
    value = check_value({"a": (1, ("b", None))})
    for codec in (JSON, CBOR):
        assert codec.decode(codec.encode(Envelope(t="ping", data=value))).data == {"a": [1, ["b", None]]}


@pytest.mark.parametrize(
    "value, problem",
    [
        (b"x", "a byte string is not a value"),
        (float("nan"), "a number is not finite"),
        (float("-inf"), "a number is not finite"),
        (2**63, "an integer is outside 64 bits"),
        (-(2**63) - 1, "an integer is outside 64 bits"),
        ("\ud800", "text contains a lone surrogate"),
        (["\ud83d", "\ude00"], "text contains a lone surrogate"),
        ({"\ud800": 1}, "text contains a lone surrogate"),
        ({1: 2}, "a map key is not text"),
        ({b"a": 2}, "a map key is not text"),
        ({True: 2}, "a map key is not text"),
        ({1, 2}, "set is not a value"),
        (datetime.now(UTC), "datetime is not a value"),
        (Colour.RED, "Colour is not a value"),
        (object(), "object is not a value"),
    ],
)
def test_what_is_outside_the_model(value: object, problem: str) -> None:
    for inside in (value, [value], {"k": [0, value]}, (value,)):
        with pytest.raises(ProtocolError) as caught:
            check_value(inside, "result")
        assert caught.value.code is ErrorCode.BAD_FIELD
        assert caught.value.fatal is None
        assert caught.value.message == f"result: {problem}"


@pytest.mark.parametrize("is_map", [False, True])
def test_depth_counts_the_envelope(is_map: bool) -> None:
    assert check_value(wrap(1, [is_map] * 15))
    with pytest.raises(ProtocolError, match="nested deeper than 16") as caught:
        check_value(wrap(1, [is_map] * 16))
    assert caught.value.fatal is None, "for a value that came another way"
    with pytest.raises(ProtocolError, match="nested deeper than 16") as caught:
        find_problem(wrap(1, [is_map] * 16))
    assert caught.value.fatal is CloseCode.INVALID_DATA


@pytest.mark.parametrize("depth, good", [(12, True), (13, False)])
def test_what_is_published_nests_less_deep(depth: int, good: bool) -> None:
    value = wrap(1, [False, True] * (depth // 2) + [True] * (depth % 2))
    if good:
        assert check_event_data(value) is value
        return
    with pytest.raises(ProtocolError, match=r"^payload: nested deeper than 12$") as caught:
        check_event_data(value, "payload")
    assert caught.value.code is ErrorCode.BAD_FIELD
    publish = Envelope("publish", room="r", event="e", data=value)
    for codec in (JSON, CBOR):
        with pytest.raises(ProtocolError, match=r"^data: nested deeper than 12$"):
            codec.decode(codec.encode(publish))


def test_a_value_that_contains_itself_is_too_deep() -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    with pytest.raises(ProtocolError, match="nested deeper"):
        check_value(cycle)


def in_memory(value: object) -> int:
    """What a value takes, were nothing of it shared."""
    size = sys.getsizeof(value)
    if isinstance(value, dict):
        size += sum(in_memory(key) + in_memory(each) for key, each in value.items())
    elif isinstance(value, list):
        size += sum(map(in_memory, value))
    return size


@pytest.mark.parametrize(
    "value",
    [
        [{} for _ in range(500)],
        [[] for _ in range(500)],
        [[[]] for _ in range(500)],
        {str(number): number for number in range(500)},
        {str(number): {} for number in range(500)},
        [number + 0.5 for number in range(500)],
        [2**40 + number for number in range(500)],
        [f"{number:02x}" for number in range(500)],
        "x" * 10_000,
        "😀" + "x" * 10_000,
        ["é" + "x" * 100 for _ in range(100)],
        {f"😀{number:0100}": None for number in range(100)},
        {"text": "hello", "n": 1, "tags": ["a", "b"]},
        {"rows": [{"id": 1000 + number, "name": f"name {number}"} for number in range(100)]},
        None,
    ],
    ids=lambda value: str(value)[:20],
)
def test_the_footprint_is_what_a_value_takes_in_memory(value: Any) -> None:
    assert footprint(value) == in_memory(value)
