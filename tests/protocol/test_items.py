"""Values and keys are counted before anything is made of them: exactly, cheaply, the same on both codecs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import protocol.cbor
import protocol.json
from protocol.cbor import CBOR
from protocol.codec import Codec
from protocol.envelope import Envelope
from protocol.errors import ErrorCode, ProtocolError
from protocol.json import JSON, check_items
from protocol.values import MAX_ITEMS
from tests.protocol import make_vectors
from tests.protocol.strategies import envelopes, nested, scalars, texts

CODECS: list[Codec] = [JSON, CBOR]
every_codec = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)

tricky = st.text('",:[]{}\\ é🚣', max_size=12)
values = nested(scalars | tricky | st.dictionaries(tricky, tricky, max_size=3))
layouts = st.sampled_from([{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}])


def items(value: Any) -> int:
    """Count values and keys, the slow and obvious way."""
    if isinstance(value, dict):
        return 1 + sum(1 + items(inner) for inner in value.values())
    if isinstance(value, list):
        return 1 + sum(map(items, value))
    return 1


@given(values, layouts)
@example(["a"], {})
@example('\\"[', {})
def test_json_is_counted_exactly(value: Any, layout: dict[str, Any]) -> None:
    text = json.dumps(value, **layout).encode()
    assert protocol.json._count_items(text, 10**9) == items(value)


@given(values)
def test_cbor_is_counted_exactly(value: Any) -> None:
    assert protocol.cbor._count_items(make_vectors.cbor(value), 10**9) == items(value)


@pytest.mark.parametrize("size", [0, 23, 24, 255, 256, 65535, 65536])
@pytest.mark.parametrize("major", [2, 3])
def test_texts_of_every_length_are_one_item(major: int, size: int) -> None:
    text = make_vectors.head(major, size) + b"\xa0" * size
    assert protocol.cbor._count_items(text + b"\x01\x18\xff\x3b" + b"\0" * 8, 10**9) == 4


@pytest.mark.parametrize(
    "end", ["c1 00", "5f 41 61", "7f 61 61", "9f 00", "bf 00", "ff 00", "1c 00", "fe 00"]
)
def test_the_count_ends_where_decoding_does(end: str) -> None:
    payload = bytes.fromhex("82 00") + bytes.fromhex(end) * 100
    assert protocol.cbor._count_items(payload, 10**9) == 3
    with pytest.raises(ProtocolError):
        CBOR.decode(bytes.fromhex("a3 00 01 01 0f 05") + payload)


@every_codec
@given(envelope=envelopes, most=st.integers(1, 40))
def test_a_message_with_more_is_refused_and_no_other(codec: Codec, envelope: Envelope, most: int) -> None:
    payload = codec.encode(envelope)
    # As JSON writes it: ``v`` and ``t`` are there, what is None is not.
    if items(json.loads(JSON.encode(envelope))) <= most:
        assert repr(codec.decode(payload, max_items=most)) == repr(envelope)
        return
    with pytest.raises(ProtocolError) as caught:
        codec.decode(payload, max_items=most)
    error = caught.value
    assert (error.code, error.fatal) == (ErrorCode.TOO_LARGE, None)
    assert error.message == f"the message contains more than {most} values and keys"
    assert error.id == envelope.id, "it stands in front"


@every_codec
@given(payload=st.binary(max_size=300), most=st.integers(0, 20))
def test_any_bytes_can_be_counted(codec: Codec, payload: bytes, most: int) -> None:
    try:
        codec.decode(payload, max_items=most)
    except ProtocolError as error:
        assert isinstance(error.code, ErrorCode)


@given(st.binary(max_size=60) | texts.map(str.encode) | st.text(' \t{}[],:"\\', max_size=60).map(str.encode))
def test_what_is_no_json_is_never_counted_below_nothing(text: bytes) -> None:
    assert protocol.json._count_items(text, 10**9) >= 1


BOMBS = {
    "maps": (b"{}", b"\xa0"),
    "arrays": (b"[]", b"\x80"),
    "nested": (b"[[[]]]", b"\x81\x81\x80"),
    "numbers": (b"0", b"\x00"),
    "texts": (b'""', b"\x60"),
    "nulls": (b"null", b"\xf6"),
}


@every_codec
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_megabyte_of_nothing_is_refused_before_it_is_decoded(
    codec: Codec, bomb: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*_: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(protocol.json, "_decode", decoded)
    monkeypatch.setattr(protocol.cbor, "_read_items", decoded)
    if codec.binary:
        count = 1_000_000 // len(bomb[1])
        data = make_vectors.head(4, count) + bomb[1] * count
        payload = bytes.fromhex("a6 00 01 01 07 02 18 63 03 61 72 04 61 65 05") + data
    else:
        count = 1_000_000 // (len(bomb[0]) + 1)
        data = b"[" + b",".join([bomb[0]] * count) + b"]"
        payload = b'{"v":1,"t":"publish","id":99,"room":"r","event":"e","data":' + data + b"}"
    with pytest.raises(ProtocolError, match="more than 8192 values and keys") as caught:
        codec.decode(payload)
    assert (caught.value.code, caught.value.id, caught.value.fatal) == (ErrorCode.TOO_LARGE, 99, None)


@every_codec
def test_text_is_one_value_whatever_stands_in_it(codec: Codec) -> None:
    envelope = Envelope(
        "ping", data=['{"a":[1,2,{}]},"' * 20_000, "\\" * 70_001, '\\"' * 30_000, "🚣," * 40_000]
    )
    assert codec.decode(codec.encode(envelope)) == envelope


@every_codec
def test_the_most_there_may_be(codec: Codec) -> None:
    # The map, three keys, v, t, the array: 7.
    good = Envelope("ping", data=[0] * (MAX_ITEMS - 7))
    assert codec.decode(codec.encode(good)) == good
    with pytest.raises(ProtocolError):
        codec.decode(codec.encode(Envelope("ping", data=[0] * (MAX_ITEMS - 6))))
    assert codec.decode(codec.encode(Envelope("ping", data=[0] * 100_000)), max_items=10**9).t == "ping"


@pytest.mark.parametrize(
    "text, id",
    [
        ('{"v":1,"t":"ping","id":7,"data":[]}', 7),
        (' { "id" : 7 , "v":1}', 7),
        ('{"id":9223372036854775808}', None),
        ('{"id":99999999999999999999}', None),
        ('{"id":-7}', None),
        ('{"id":"7"}', None),
        ('{"id":7.5}', None),
        ('{"event":"\\"","id":7}', None),
        ('{"data":{"id":7}}', None),
        ('{"event":"x\\",\\"id\\":8","id":7}', None),
        ('[{"id":7}]', None),
        ("", None),
    ],
)
def test_the_id_is_read_where_it_stands_in_front_json(text: str, id: int | None) -> None:
    with pytest.raises(ProtocolError) as caught:
        JSON.decode(text.encode() + b"[" * 100, max_items=10)
    assert caught.value.id == id


@pytest.mark.parametrize(
    "start, id",
    [
        ("a3 00 01 01 0f 02 07", 7),
        ("b8 03 00 01 01 0f 02 18 07", 7),
        ("b9 0003 02 1b 7fffffffffffffff", 2**63 - 1),
        ("a1 02 1b ffffffffffffffff", None),
        ("a1 02 20", None),
        ("a1 02 61 37", None),
        ("a2 05 81 00 02 07", None),
        ("a2 05 c1 00 02 07", None),
        ("a2 61 02 02 02 07", 7),
        ("bf 02 07", None),
        ("a1 02", None),
        ("", None),
    ],
)
def test_the_id_is_read_where_it_stands_in_front_cbor(start: str, id: int | None) -> None:
    with pytest.raises(ProtocolError) as caught:
        CBOR.decode(bytes.fromhex(start) + b"\x80" * 100, max_items=10)
    assert caught.value.id == id


def test_an_id_at_the_very_end() -> None:
    for payload in (b"\xa1", b"\xa1\x02", b"\xa1\x02\x18", b"\xa1\x02\x7b\xff", b"\xb8"):
        protocol.cbor._early_id(payload)
    many = (
        b"\xb8\x1e" + b"".join(b"\x18" + bytes([30 + number]) + b"\x00" for number in range(30)) + b"\x02\x07"
    )
    assert protocol.cbor._early_id(many) is None, "far behind"
    assert protocol.json._early_id(b"{" + b",".join(b'"x":1' for _ in range(30)) + b',"id":7}') is None


def test_other_json_is_counted_by_the_same_rule() -> None:
    check_items(b"[" + b"1," * 100 + b"1]")
    check_items(b'"' + b"," * 100_000 + b'"')
    with pytest.raises(ProtocolError, match="more than 10 values and keys"):
        check_items(b"[" + b"1," * 100 + b"1]", 10)


def test_a_decoder_of_a_large_message_is_not_kept() -> None:
    CBOR.decode(CBOR.encode(Envelope("ping")))
    before = len(protocol.cbor._idle)
    CBOR.decode(CBOR.encode(Envelope("ping", data="x" * 100_000)))
    assert len(protocol.cbor._idle) == before - 1
