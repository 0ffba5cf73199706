"""The committed vectors, the codecs and the grammar agree, in both directions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cbor2
import msgspec
import pycddl
import pytest

from protocol import names
from protocol.cbor import CBOR
from protocol.codec import Codec
from protocol.envelope import KEYS, KINDS, VERSION, Envelope
from protocol.errors import CloseCode, ErrorCode, ProtocolError
from protocol.json import JSON
from protocol.patterns import EventFilter, compile_pattern
from tests.protocol import make_vectors

PROTOCOL = Path(__file__).parents[2] / "protocol"
VECTORS = PROTOCOL / "vectors"


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


VALID = load("valid.json") + load("boundary.json")["valid"]
REFUSED = load("refused.json") + load("boundary.json")["refused"]
BY_NAME: dict[str, Codec] = {"json": JSON, "cbor": CBOR}


def named(rows: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize("row", [pytest.param(row, id=row["name"]) for row in rows])


def expected(row: dict[str, Any]) -> Envelope:
    fields = dict(row["envelope"])
    assert fields.pop("v") == VERSION
    return Envelope(**fields)


def payload(row: dict[str, Any]) -> bytes:
    return bytes.fromhex(row["hex"]) if "hex" in row else row["text"].encode()


@pytest.mark.parametrize("name", sorted(make_vectors.files()))
def test_files_are_what_the_lists_say(name: str) -> None:
    assert (VECTORS / name).read_text(encoding="utf-8") == make_vectors.files()[name]


def test_keys_and_kinds_are_those_of_the_specification() -> None:
    assert sorted(KEYS, key=KEYS.__getitem__) == make_vectors.KEYS
    assert {kind: number for number, kind in enumerate(make_vectors.KINDS) if kind} == KINDS
    assert set(KINDS) == {row["envelope"]["t"] for row in VALID}, "a vector for each kind"


def test_names_are_unique() -> None:
    names_seen = [row["name"] for row in VALID + REFUSED]
    assert len(set(names_seen)) == len(names_seen)


@named(VALID)
def test_both_forms_decode_to_the_envelope(row: dict[str, Any]) -> None:
    # repr tells 1 from 1.0 and true, and -0.0 from 0.0
    assert repr(JSON.decode(row["json"].encode())) == repr(expected(row))
    assert repr(CBOR.decode(bytes.fromhex(row["cbor"]))) == repr(expected(row))


@named([row for row in VALID if row["usual"]])
def test_the_usual_form_is_what_the_codecs_write(row: dict[str, Any]) -> None:
    assert CBOR.encode(expected(row)).hex() == row["cbor"]
    assert json.loads(JSON.encode(expected(row))) == json.loads(row["json"])


@named(REFUSED)
def test_refused(row: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        BY_NAME[row["codec"]].decode(payload(row))
    error = caught.value
    assert (error.code, error.fatal, error.id) == (row["code"], row["close"], row["id"])
    assert error.message
    assert len(error.message) < 200


def test_only_what_is_malformed_is_fatal() -> None:
    assert {(row["code"], row["close"]) for row in REFUSED if row["close"]} == {
        (ErrorCode.MALFORMED, CloseCode.INVALID_DATA)
    }


@pytest.mark.parametrize("row", load("names.json"), ids=lambda row: f"{row['what']}-{row['text'][:20]!r}")
def test_names(row: dict[str, Any]) -> None:
    check = getattr(names, f"check_{row['what']}")
    if row["code"] is None:
        assert check(row["text"]) == row["text"]
    else:
        with pytest.raises(ProtocolError) as caught:
            check(row["text"])
        assert caught.value.code == row["code"]


@pytest.mark.parametrize(
    "row", load("patterns.json")["matches"], ids=lambda row: f"{row['pattern']}-{row['name']}"
)
def test_patterns(row: dict[str, Any]) -> None:
    assert compile_pattern(row["pattern"])(row["name"]) is row["matches"]


@pytest.mark.parametrize("row", load("patterns.json")["filters"], ids=lambda row: row["about"])
def test_filters(row: dict[str, Any]) -> None:
    filter = EventFilter.ALL
    for command, patterns in row["steps"]:
        filter = getattr(filter, command)(patterns)
    assert (list(filter.events), list(filter.excepted)) == (row["events"], row["except"])
    assert [event for event in row["passes"] + row["held"] if filter.allows(event)] == row["passes"]


# The validator lets a control such as .size pass values of another type, and a wrong value under a known
# key pass for an unknown key. So what must be refused is shown to it without these.
GRAMMAR = (PROTOCOL / "envelope.cddl").read_text(encoding="utf-8")
CBOR_GRAMMAR = pycddl.Schema(GRAMMAR)
JSON_GRAMMAR = pycddl.Schema(GRAMMAR.replace("start = cbor-envelope", "start = json-envelope"))
TYPES_ONLY = pycddl.Schema(re.sub(r"\* cbor-unknown-key => any|\.size \(.*\)", "", GRAMMAR))
# Refused for a reason outside the grammar, or that the validator cannot tell: it also takes
# undefined for null, and passes an array whatever is in it.
ADMITTED = {
    *("cbor-nan", "cbor-infinity", "cbor-below-min-int", "cbor-above-max-int"),
    *("cbor-undefined", "cbor-bytes-inside", "cbor-publish-depth-13"),
}


@named(VALID)
def test_grammar_admits_valid_vectors(row: dict[str, Any]) -> None:
    CBOR_GRAMMAR.validate_cbor(bytes.fromhex(row["cbor"]))
    JSON_GRAMMAR.validate_cbor(cbor2.dumps(msgspec.json.decode(row["json"])))


@named([row for row in REFUSED if row["codec"] == "cbor" and not row["close"]])
def test_grammar_refuses_invalid_vectors(row: dict[str, Any]) -> None:
    if row["name"] in ADMITTED:
        TYPES_ONLY.validate_cbor(payload(row))  # the comment above must stay true
    else:
        with pytest.raises(pycddl.ValidationError):
            TYPES_ONLY.validate_cbor(payload(row))


@pytest.mark.parametrize("field, limit", [("room", 200), ("event", 100), ("mid", 100)])
def test_grammar_bounds_names(field: str, limit: int) -> None:
    CBOR_GRAMMAR.validate_cbor(cbor2.dumps({0: 1, 1: 7, KEYS[field]: "é" * (limit // 2)}))
    for name in ("", "é" * (limit // 2) + "x"):
        with pytest.raises(pycddl.ValidationError):
            pycddl.Schema(GRAMMAR.replace("* cbor-unknown-key => any", "")).validate_cbor(
                cbor2.dumps({0: 1, 1: 7, KEYS[field]: name})
            )
