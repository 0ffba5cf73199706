"""No event is larger than clients were told, in whichever codec it is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.cbor import CBOR
from protocol.codec import Codec
from protocol.envelope import Envelope
from protocol.errors import ErrorCode, ProtocolError
from protocol.json import JSON
from protocol.sizes import HEAD_BYTES, PLACE_BYTES, WORST_GROWTH, check_size, largest_size
from protocol.values import MAX_INT, footprint
from tests.protocol.strategies import nested, scalars

LIMIT = 2**20
CODECS: list[Codec] = [JSON, CBOR]
controls = st.text(st.characters(max_codepoint=0x1F), max_size=50)


def event_of(command: Envelope) -> Envelope:
    return Envelope(
        *("event", None, command.room, command.event, command.data),
        ts=2**43,
        mid=command.mid or "m" * 24,
        sender="bob",
    )


def placed(event: Envelope) -> Envelope:
    seq, epoch = MAX_INT, "0123456789ab"
    return Envelope(
        *("event", None, event.room, event.event, event.data, seq, epoch, event.ts, event.mid, event.sender)
    )


@given(nested(scalars | controls))
def test_a_value_grows_no_more_than_was_thought(data: object) -> None:
    command = Envelope("publish", room="r", event="e", data=data)
    event = placed(event_of(command))
    for codec in CODECS:
        size = len(codec.encode(command))
        assert largest_size(event) <= size * WORST_GROWTH + PLACE_BYTES + HEAD_BYTES
    assert largest_size(event) <= footprint(data) * WORST_GROWTH + PLACE_BYTES + HEAD_BYTES


@given(nested(scalars | controls), st.integers(100, 600))
def test_what_passes_fits_and_what_is_refused_nearly_did_not(data: object, limit: int) -> None:
    event = event_of(Envelope("publish", room="r", event="e", data=data))
    needed = largest_size(placed(event))
    try:
        check_size(event, limit, size=footprint(data))
    except ProtocolError as error:
        assert error.code is ErrorCode.TOO_LARGE
        assert needed > limit - PLACE_BYTES
    else:
        assert needed <= limit


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize(
    "data",
    ["\x01" * (LIMIT - 100), "y" * (LIMIT - 100), "é" * (LIMIT // 2), ["1.0"] * 300_000, [1.0] * 200_000],
    ids=["control", "text", "wide", "texts", "floats"],
)
def test_what_is_too_large_for_one_of_them_is_refused(codec: Codec, data: object) -> None:
    command = Envelope("publish", room="r", event="e", data=data)
    with pytest.raises(ProtocolError, match="the largest message has 1048576") as caught:
        check_size(event_of(command), LIMIT, size=len(codec.encode(command)))
    assert caught.value.code is ErrorCode.TOO_LARGE


@pytest.mark.parametrize("number", ["f90001", "f98001", "fa80000001", "fa00000001", "1b7fffffffffffffff"])
def test_numbers_that_are_short_in_cbor_grow_no_more_than_was_thought(number: str) -> None:
    payload = bytes.fromhex("a5 0001 0107 036172 046165 05 99 2710" + number * 10_000)
    command = CBOR.decode(payload, max_items=10**6)
    assert largest_size(event_of(command)) <= len(payload) * WORST_GROWTH


def test_a_small_event_is_not_looked_at() -> None:
    unwritable = Envelope("event", data=object())
    check_size(unwritable, LIMIT, size=120_000)
    with pytest.raises((TypeError, ValueError)):
        check_size(unwritable, LIMIT, size=200_000)
