"""Both codecs: round trips, parity of what is refused, and no exception but ``ProtocolError``."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import protocol.cbor
import protocol.json
from protocol.cbor import CBOR
from protocol.codec import Codec
from protocol.envelope import KEYS, KINDS, Envelope
from protocol.errors import CloseCode, ErrorCode, ProtocolError
from protocol.json import JSON
from protocol.values import MAX_INT
from tests.protocol import make_vectors
from tests.protocol.strategies import anything, depth, envelopes, nested, scalars, texts

CODECS: list[Codec] = [JSON, CBOR]
every_codec = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)


def outcome(codec: Codec, payload: bytes) -> object:
    """Return what ``decode`` says, in a form that can be compared exactly."""
    try:
        return repr(codec.decode(payload))
    except ProtocolError as error:
        assert isinstance(error.code, ErrorCode)
        assert error.fatal in (None, CloseCode.INVALID_DATA)
        assert (error.code is ErrorCode.MALFORMED) == (error.fatal is not None)
        assert 0 < len(error.message) < 200
        return error.code, error.message, error.id, error.fatal


@given(envelopes)
def test_every_envelope_survives_both_codecs(envelope: Envelope) -> None:
    by_json = JSON.decode(JSON.encode(envelope))
    by_cbor = CBOR.decode(CBOR.encode(by_json))
    assert repr(by_cbor) == repr(by_json) == repr(envelope)


@given(envelopes)
def test_cbor_is_what_cbor2_writes(envelope: Envelope) -> None:
    fields = {"v": 1} | {name: getattr(envelope, name) for name in envelope.__struct_fields__}
    numbered = {KEYS[name]: value for name, value in fields.items() if value is not None}
    assert CBOR.encode(envelope) == cbor2.dumps(numbered | {1: KINDS[envelope.t]})


@given(envelopes)
def test_json_is_what_the_standard_library_reads(envelope: Envelope) -> None:
    fields = {"v": 1} | {name: getattr(envelope, name) for name in envelope.__struct_fields__}
    assert json.loads(JSON.encode(envelope)) == {
        name: value for name, value in fields.items() if value is not None
    }


odd = st.one_of(scalars, st.integers(MAX_INT + 1, 2**64 - 1), st.integers(-(2**64), -(2**63) - 1))
near_envelopes = st.builds(
    lambda fields, unknown: fields | unknown,
    st.fixed_dictionaries(
        {},
        optional={"v": st.just(1) | odd, "t": st.sampled_from([*KINDS, "no such kind"]), "data": anything}
        | {name: odd | nested(odd) for name in KEYS if name not in ("v", "t", "data")},
    ),
    st.dictionaries(texts.filter(lambda key: key not in KEYS), nested(odd), max_size=3),
)


@given(near_envelopes)
def test_both_codecs_refuse_the_same_with_the_same_words(fields: dict[str, Any]) -> None:
    numbered: dict[Any, Any] = {KEYS.get(name, name): value for name, value in fields.items()}
    if "t" in fields:
        numbered[KEYS["t"]] = KINDS.get(fields["t"], 99)
    text = json.dumps(fields).encode()
    assert outcome(CBOR, make_vectors.cbor(numbered)) == outcome(JSON, text)


@given(near_envelopes)
def test_what_is_accepted_is_of_the_value_model(fields: dict[str, Any]) -> None:
    said = outcome(JSON, json.dumps(fields).encode())
    if isinstance(said, str):
        assert depth(fields) <= 16
        assert fields["v"] == 1
        assert fields["t"] in KINDS
    elif said[1].startswith("nested"):
        assert depth(fields) > 16


@every_codec
@given(payload=st.binary(max_size=200))
def test_any_bytes_give_an_envelope_or_a_numbered_error(codec: Codec, payload: bytes) -> None:
    outcome(codec, payload)


@every_codec
@given(envelope=envelopes, data=st.data())
def test_any_damage_gives_an_envelope_or_a_numbered_error(
    codec: Codec, envelope: Envelope, data: st.DataObject
) -> None:
    payload = bytearray(codec.encode(envelope))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
        payload = payload or bytearray(b"\0")
    outcome(codec, bytes(payload))


@every_codec
@given(envelope=envelopes, data=st.data())
def test_every_cut_is_malformed(codec: Codec, envelope: Envelope, data: st.DataObject) -> None:
    payload = codec.encode(envelope)
    with pytest.raises(ProtocolError) as caught:
        codec.decode(payload[: data.draw(st.integers(0, len(payload) - 1))])
    assert caught.value.fatal is CloseCode.INVALID_DATA


@every_codec
@given(
    envelope=envelopes, extra=st.binary(min_size=1, max_size=3).filter(lambda extra: extra.strip(b" \t\r\n"))
)
def test_anything_after_the_message_is_malformed(codec: Codec, envelope: Envelope, extra: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        codec.decode(codec.encode(envelope) + extra)
    assert caught.value.fatal is CloseCode.INVALID_DATA


@given(envelopes)
def test_fast_and_careful_paths_agree(envelope: Envelope) -> None:
    text, binary = JSON.encode(envelope), CBOR.encode(envelope)
    assert repr(protocol.json._decode_carefully(text)) == repr(envelope)
    assert repr(protocol.cbor._decode_carefully(protocol.cbor._read_items(binary))) == repr(envelope)


# --- What only one codec can say --------------------------------------------------------


@example(b"\xc1\x00")
@given(st.integers(0, 2**64 - 1).map(lambda tag: make_vectors.head(6, tag) + b"\x00"))
def test_no_tag_reaches_a_decoder(tagged: bytes) -> None:
    with pytest.raises(ProtocolError, match="tags are not allowed"):
        CBOR.decode(bytes.fromhex("a3 00 01 01 0f 05") + tagged)


def test_every_tag_is_answered_with_the_refusal() -> None:
    no_tags = protocol.cbor._NoTags()
    assert dict(no_tags) == {}
    assert len(no_tags) == 0
    for tag in (0, 2, 28, 55799, 2**64 - 1):
        assert no_tags.get(tag) is protocol.cbor._refuse_tag


@given(st.sampled_from([b"\x5f\x41a\xff", b"\x7f\x61a\xff", b"\x9f\xff", b"\xbf\xff", b"\x81\x9f\xff"]))
def test_no_indefinite_length(item: bytes) -> None:
    with pytest.raises(ProtocolError, match="indefinite lengths are not allowed"):
        CBOR.decode(bytes.fromhex("a3 00 01 01 0f 05") + item)


def test_the_last_of_two_equal_json_keys_counts() -> None:
    assert JSON.decode(b'{"v":2,"t":"info","v":1,"t":"ping","data":{"a":1,"a":2}}').data == {"a": 2}


def test_messages_do_not_repeat_what_was_sent() -> None:
    secret = "s3cr3t" * 10
    for fields in ({"v": secret}, {"v": 1, "t": secret}, {"v": 1, "t": "ping", "id": secret}):
        said = outcome(JSON, json.dumps(fields).encode())
        assert "s3cr3t" not in str(said)
    twice = make_vectors.cbor(secret) + b"\x01"
    for tail in (b"\x05\xa2" + twice + twice, twice):
        assert "s3cr3t" not in str(outcome(CBOR, bytes.fromhex("a3 00 01 01 0f") + tail))


@pytest.mark.parametrize(
    "codec, payload, message",
    [
        (JSON, b"{", "not well-formed JSON"),
        (JSON, b"{}", "v: is missing"),
        (JSON, b'{"v":1}', "t: is missing"),
        (JSON, b'{"v":"1","t":"ping"}', "v: must be an integer"),
        (JSON, b'{"v":1,"t":1}', "t: must be text"),
        (JSON, b"\xff", "not UTF-8"),
        (JSON, b"[]", "not an object"),
        (CBOR, b"", "an empty message"),
        (CBOR, b"\x80", "not a map of definite length"),
        (CBOR, b"\xb8", "cut short"),
        (CBOR, b"\xa1\x00", "cut short"),
        (CBOR, b"\xa0\x00", "bytes after the end of the map"),
        (CBOR, b"\xa1\x00\x61\xff", "text is not UTF-8"),
        (CBOR, b"\xa1\x00\x1c", "not well-formed CBOR"),
        (CBOR, b"\xa1\x00" + b"\x81" * 20 + b"\x00", "nested deeper than 16"),
        (CBOR, b"\xa0", "v: is missing"),
        (CBOR, b"\xa2\x00\x01\x01\x61t", "t: must be an integer"),
    ],
)
def test_messages_name_the_problem(codec: Codec, payload: bytes, message: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        codec.decode(payload)
    assert caught.value.message == message


# --- Hostile messages ------------------------------------------------------------------------


def colliding_pairs(count: int) -> list[tuple[int, int]]:
    """Pairs of integers that all have one hash: CPython's is computed backwards (xxHash, 64 bits)."""
    p1, p2, p5, mask = 11400714785074694791, 14029467366897019727, 2870177450012600261, 2**64 - 1
    undo = pow(p2, -1, 2**64)
    pairs = []
    for first in range(10 * count):
        lane = (p5 + first * p2) & mask
        lane = ((lane << 31 | lane >> 33) & mask) * p1 & mask
        second = (12345 - lane) * undo & mask
        if 0 <= second < 2**61 - 1 and len(pairs) < count:
            pairs.append((first, second))
    assert len(set(map(hash, pairs[:100]))) == 1
    return pairs


def test_keys_with_equal_hashes_are_refused_before_they_are_hashed() -> None:
    keys = [make_vectors.cbor(list(pair)) for pair in colliding_pairs(30_000)]
    pairs = b"".join(key + b"\0" for key in keys)
    started = time.process_time()
    for start, count in (("", 30_000), ("a3 00 01 01 0f 05", 30_000)):
        with pytest.raises(ProtocolError, match="key is not text"):
            CBOR.decode(bytes.fromhex(start) + make_vectors.head(5, count) + pairs, max_items=10**9)
    assert time.process_time() - started < 5, "in a dict they would take half a minute"


@every_codec
def test_a_hundred_thousand_containers_take_no_time_to_speak_of(codec: Codec) -> None:
    fields = {"v": 1, "t": "ping", "data": [[[]]] * 50_000, "unknown": {str(n): [n] for n in range(50_000)}}
    numbered: dict[Any, Any] = {KEYS.get(name, name): value for name, value in fields.items()} | {1: 15}
    payload = make_vectors.cbor(numbered) if codec.binary else json.dumps(fields).encode()
    started = time.process_time()
    assert codec.decode(payload, max_items=10**9).data == fields["data"]
    assert time.process_time() - started < 5


def test_a_message_larger_than_the_decoder_reads_at_once() -> None:
    envelope = Envelope(t="ping", data=["x" * 10_000, "é" * 70_000, list(range(5000))])
    for codec in CODECS:
        assert codec.decode(codec.encode(envelope)) == envelope


def test_the_cbor_decoder_is_good_again_after_every_error() -> None:
    good = bytes.fromhex("a3 00 01 01 0f 05 81 81 01")
    for row in make_vectors.REFUSED:
        if row[2] == "cbor":
            outcome(CBOR, bytes.fromhex(row[3]))
            assert CBOR.decode(good) == Envelope(t="ping", data=[[1]])


def test_one_cbor_decoder_serves_one_thread() -> None:
    payload = CBOR.encode(Envelope(t="ping"))
    CBOR.decode(payload)
    before = list(protocol.cbor._idle)
    assert before
    for _ in range(10):
        CBOR.decode(payload)
    assert protocol.cbor._idle == before


def test_threads_do_not_share_a_decoder() -> None:
    failures: list[object] = []

    def decode_many(number: int) -> None:
        payload = CBOR.encode(Envelope(t="ping", id=number, data=["x" * 5000] * number))
        for _ in range(300):
            if CBOR.decode(payload).id != number:
                failures.append(number)

    threads = [threading.Thread(target=decode_many, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# --- What cannot be written ---------------------------------------------------------------------


@every_codec
@pytest.mark.parametrize("data", [object(), "\ud800"])
def test_what_cannot_be_written_raises_type_or_value_error(codec: Codec, data: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        codec.encode(Envelope(t="ping", data=data))
