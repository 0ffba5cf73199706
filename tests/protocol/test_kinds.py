"""One table says what kinds and fields there are; whatever else lists them is held to it here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given

from gateway.auth.identity import PERMISSIONS
from gateway.broker.base import Event, user_channel
from gateway.session.commands import COMMANDS
from protocol.cbor import CBOR
from protocol.envelope import CLIENT_KINDS, KEYS, KINDS, SERVER_KINDS, Envelope
from protocol.errors import ErrorCode, ProtocolError
from protocol.json import JSON
from protocol.kinds import EVENT_FIELDS, FIELDS, KEPT_FIELDS, RESERVED_FIELDS, RESERVED_KINDS, TABLE, Kind
from tests.protocol import make_kinds, make_vectors
from tests.protocol.strategies import envelopes

ROOT = Path(__file__).parents[2]
GRAMMAR = (ROOT / "protocol" / "envelope.cddl").read_text(encoding="utf-8")
SPECIFICATION = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
NAMES = [field.name for field in FIELDS]
every_kind = pytest.mark.parametrize("kind", TABLE, ids=lambda kind: kind.name)


def section(text: str, start: str, end: str) -> str:
    return text.partition(start)[2].partition(end)[0]


def rows(start: str, end: str) -> list[list[str]]:
    """Return the cells of a table of the specification, without its head."""
    lines = [line for line in section(SPECIFICATION, start, end).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`(\w+)\??`", cell)


def test_the_table_contradicts_itself_nowhere() -> None:
    assert [field.key for field in FIELDS] == list(range(len(FIELDS)))
    numbers = [kind.number for kind in TABLE]
    assert numbers == sorted(set(range(1, max(numbers) + 1)) - set(RESERVED_KINDS.values()))
    assert len({kind.name for kind in TABLE}) == len(TABLE)
    assert len(set(NAMES)) == len(NAMES)
    assert not RESERVED_KINDS.keys() & KINDS.keys()
    assert not set(RESERVED_KINDS.values()) & set(KINDS.values())
    assert not RESERVED_FIELDS.keys() & KEYS.keys()
    assert not set(RESERVED_FIELDS.values()) & set(KEYS.values())
    assert set(KEPT_FIELDS) < set(EVENT_FIELDS) < set(NAMES)


@every_kind
def test_a_kind_has_what_its_sender_needs(kind: Kind) -> None:
    assert set(kind.fields + kind.told) <= set(NAMES) - {"v", "t"}
    if kind.sender == "server":
        assert not (kind.fields or kind.permission or kind.publishes or kind.over_http)
    if kind.sender == "client":
        assert not kind.told
    assert kind.permission in (None, *PERMISSIONS)
    assert (kind.name in CLIENT_KINDS, kind.name in SERVER_KINDS) == {
        "client": (True, False),
        "server": (False, True),
        "both": (True, True),
    }[kind.sender]


def test_the_envelope_has_these_fields_in_this_order() -> None:
    assert ["v", *Envelope.__struct_fields__] == ["v", "t", *NAMES[2:]]


@given(envelopes)
def test_cbor_writes_the_keys_in_rising_order(envelope: Envelope) -> None:
    written = list(cbor2.loads(CBOR.encode(envelope)))
    assert written == sorted(written)


@pytest.mark.parametrize("name", RESERVED_KINDS)
def test_a_reserved_kind_is_unknown(name: str) -> None:
    for codec, payload in (
        (JSON, f'{{"v":1,"t":"{name}","id":1}}'.encode()),
        (CBOR, make_vectors.cbor({0: 1, 1: RESERVED_KINDS[name], 2: 1})),
    ):
        with pytest.raises(ProtocolError, match="not a known kind") as caught:
            codec.decode(payload)
        assert (caught.value.code, caught.value.id) == (ErrorCode.UNKNOWN_KIND, 1)


# --- The gateway -------------------------------------------------------------------------------


def test_the_gateway_dispatches_every_command_and_nothing_else() -> None:
    assert list(COMMANDS) == list(CLIENT_KINDS)


def test_events_say_what_the_table_says() -> None:
    whole: dict[str, Any] = {
        "event": "e",
        "mid": "m",
        "ts": 1,
        "room": "r",
        "data": 1,
        "sender": "s",
        "critical": True,
    }
    event = Event(channel=user_channel("acme", "alice"), **whole)
    event.seq, event.epoch = 1, "k"
    assert tuple(event.describe()) == KEPT_FIELDS
    said = {name for name in NAMES[2:] if getattr(event.envelope(), name) is not None}
    assert said == set(EVENT_FIELDS)


# --- The grammar -------------------------------------------------------------------------------


def test_the_grammar_has_these_keys() -> None:
    cbor = section(GRAMMAR, "cbor-envelope = {", "* cbor-unknown-key")
    assert [
        (int(key), name) for key, name in re.findall(r"^  \??\s*(\d+): [^;]*; (\w+)", cbor, re.MULTILINE)
    ] == [(field.key, field.name) for field in FIELDS]
    json = section(GRAMMAR, "json-envelope = {", "* tstr")
    assert re.findall(r'^  \??\s*"(\w+)": ', json, re.MULTILINE) == NAMES
    assert f"cbor-unknown-key = ({len(FIELDS)}.." in GRAMMAR


def test_the_grammar_gives_the_keys_the_same_types_in_both_forms() -> None:
    types = [
        re.findall(r"^  \??\s*[\w\"]+: ([^,]+),", section(GRAMMAR, start, "}"), re.MULTILINE)[2:]
        for start in ("cbor-envelope = {", "json-envelope = {")
    ]
    assert types[0] == types[1]
    plain = {"unsigned": "uint63 / null", "value": "value", "boolean": "bool / null"}
    for field, written in zip(FIELDS[2:], types[0], strict=True):
        assert written == plain.get(field.type, written)
        if field.type == "text":
            assert written in ("tstr / null", f"{field.name} / null")


def test_the_kinds_are_written_down_from_the_table() -> None:
    assert make_kinds.grammar(GRAMMAR) == GRAMMAR, "run python -m tests.protocol.make_kinds"
    assert make_kinds.script() == make_kinds.SCRIPT.read_text(encoding="utf-8"), "and build client.js"


# --- The documentation ----------------------------------------------------------------------------


def test_the_specification_lists_these_fields() -> None:
    listed = rows("## Envelope", "CBOR key 15")
    assert [(quoted(row[0]), int(row[1])) for row in listed] == [
        ([field.name], field.key) for field in FIELDS
    ]
    words = {"unsigned": ("unsigned", "milliseconds"), "text": ("text",), "boolean": ("boolean",)}
    for row, field in zip(listed, FIELDS, strict=True):
        assert row[2].startswith(words.get(field.type, ("",)))


def test_the_specification_lists_these_kinds() -> None:
    listed = [row for row in rows("matches any characters", "## Connecting") if len(row) == 7]
    assert [
        (
            *(quoted(row[0]), int(row[1]), row[2], quoted(row[3]), quoted(row[4])),
            *(quoted(row[5]), row[6] == "yes"),
        )
        for row in listed
    ] == [
        (
            *([kind.name], kind.number, kind.sender, list(kind.fields), list(kind.told)),
            *([kind.permission] if kind.permission else [], kind.over_http),
        )
        for kind in TABLE
    ]


def test_the_specification_names_what_is_reserved() -> None:
    for name, number in (RESERVED_KINDS | RESERVED_FIELDS).items():
        assert f"{number} (`{name}`)" in SPECIFICATION


def test_the_specification_says_what_each_command_takes() -> None:
    listed = rows("## Commands", "**Filter.**")
    assert {quoted(row[0])[0] for row in listed} == set(CLIENT_KINDS)
    for kind in TABLE:
        if kind.sender != "server":
            taken = " ".join(row[1] for row in listed if quoted(row[0])[0] == kind.name)
            for name in kind.fields:
                assert re.search(rf"\b{name}\b", taken), (kind.name, name)


def test_the_specification_says_what_the_server_sends() -> None:
    listed = {quoted(row[0])[0]: row[1] for row in rows("## From the server", "`closing` precedes")}
    for kind in TABLE:
        # Those two are told with their commands.
        if kind.sender != "client" and kind.name not in ("connected", "pong", "reply", "event"):
            words = set(re.findall(r"\w+", re.sub(r"\{.*\}|\(.*?\)", "", listed[kind.name])))
            assert words & set(NAMES) == set(kind.told), kind.name
    assert set(quoted(listed["event"])) <= set(EVENT_FIELDS)
