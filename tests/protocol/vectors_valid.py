"""Envelopes in both forms, by hand: what the conformance vectors are about.

Rows are (name, about, envelope[, other JSON text[, other CBOR hex]]).
"""

# ruff: noqa: E501 -- tables, one row in one line

from __future__ import annotations

from typing import Any

NOW = 1760000000000

VALID: list[tuple[Any, ...]] = [
    # One of each kind, as in docs/protocol.md.
    ("auth", "the first message with auth.in_band", {"v": 1, "t": "auth", "id": 1, "data": {"token": "e30.e30.c2ln"}}),
    ("refresh", "a new token on the open connection", {"v": 1, "t": "refresh", "id": 2, "data": {"token": "e30.e30.c2ln"}}),
    (
        "join",
        "with a position to resume from and a filter",
        {
            "v": 1, "t": "join", "id": 1, "room": "chat:42",
            "data": {"since": {"epoch": "k3", "seq": 118}, "events": ["message:*"], "overflow": "disconnect"},
        },
    ),
    (
        "join without a room",
        "where to go on in the orders of the organisation and of the user",
        {
            "v": 1, "t": "join", "id": 2,
            "data": {
                "organisation": {"since": {"epoch": "a1", "seq": 5}},
                "user": {"since": {"epoch": "b9", "seq": 1}, "events": ["permission:*"], "overflow": "replay"},
            },
        },
    ),
    ("history of the user", "without a room", {"v": 1, "t": "history", "id": 3, "data": {"of": "user", "limit": 50}}),
    ("ack in the organisation", "without a room", {"v": 1, "t": "ack", "data": {"of": "organisation"}, "seq": 7, "epoch": "a1"}),
    ("send to several users", "each has it in an order of their own", {"v": 1, "t": "send", "id": 4, "event": "note", "data": {"users": ["alice", "bob"], "data": 1}}),
    (
        "connected with positions",
        "where the orders of the organisation and of the user are",
        {
            "v": 1, "t": "connected",
            "data": {
                "connection": "n1-5f", "org": "acme", "user": "alice", "node": "n1", "unread": 2,
                "positions": {"organisation": {"epoch": "a1", "seq": 7}, "user": {"epoch": "b9", "seq": 3}},
            },
            "ts": NOW,
        },
    ),
    (
        "reply to a join without a room",
        "as of a room, for each",
        {
            "v": 1, "t": "reply", "id": 2,
            "data": {
                "organisation": {"epoch": "a1", "seq": 7, "recovered": True, "replayed": 2},
                "user": {"epoch": "b9", "seq": 3, "recovered": False, "replayed": 1},
            },
        },
    ),
    ("event of the organisation", "neither room nor to", {"v": 1, "t": "event", "event": "note", "data": 1, "seq": 7, "epoch": "a1", "ts": NOW, "mid": "m"}),
    ("event of one connection", "has no place", {"v": 1, "t": "event", "event": "note", "data": 1, "ts": NOW, "mid": "m", "to": "connection"}),
    ("lost of the user", "told apart by to", {"v": 1, "t": "lost", "data": {"from": 2, "to": 3, "reason": "history"}, "epoch": "b9", "to": "user"}),
    ("leave", "without an id: no reply", {"v": 1, "t": "leave", "room": "chat:42"}),
    ("subscribe", "patterns of events", {"v": 1, "t": "subscribe", "id": 3, "data": {"events": ["task:*", "agent_created"]}}),
    ("unsubscribe", "all", {"v": 1, "t": "unsubscribe", "id": 4, "data": {"events": ["all"]}}),
    (
        "publish",
        "an event into a room",
        {"v": 1, "t": "publish", "id": 2, "room": "chat:42", "event": "message:new", "data": {"text": "hi"}, "mid": "m-1"},
    ),
    ("send", "to one user", {"v": 1, "t": "send", "id": 5, "event": "note", "data": {"user": "bob", "data": [1, 2]}}),
    ("call", "a handler", {"v": 1, "t": "call", "id": 6, "event": "pause_councilor", "data": {"councilor": "c1"}}),
    ("ack", "a position", {"v": 1, "t": "ack", "id": 7, "room": "chat:42", "seq": 121}),
    ("history", "one page", {"v": 1, "t": "history", "id": 8, "room": "chat:42", "data": {"limit": 50}}),
    ("presence", "the same kind in both directions", {"v": 1, "t": "presence", "id": 9, "room": "chat:42"}),
    ("presence message", "a user came", {"v": 1, "t": "presence", "room": "chat:42", "event": "join", "data": {"user": "bob"}, "ts": 1760000000000}),
    ("info", "no fields", {"v": 1, "t": "info", "id": 10}),
    ("stats", "no fields", {"v": 1, "t": "stats", "id": 11}),
    ("ping", "its data comes back", {"v": 1, "t": "ping", "id": 12, "data": 7}),
    ("typing", "start is the default", {"v": 1, "t": "typing", "room": "chat:42", "data": {"state": "stop"}}),
    (
        "connected",
        "the server's first message",
        {
            "v": 1, "t": "connected",
            "data": {
                "connection": "n1-5f", "org": "acme", "user": "alice", "node": "n1", "heartbeat": 30.5,
                "subprotocol": "trireme.v1.json",
                "limits": {"message_bytes": 1048576, "rooms": 1000, "patterns": 64},
                "expires": NOW + 3600000,
            },
            "ts": NOW,
        },
    ),
    (
        "reply",
        "to join",
        {
            "v": 1, "t": "reply", "id": 1, "room": "chat:42",
            "data": {"recovered": True, "replayed": 3}, "seq": 121, "epoch": "k3",
        },
    ),
    (
        "error",
        "with the time to wait, in seconds",
        {"v": 1, "t": "error", "id": 2, "data": {"retry_after": 1.5}, "code": 300, "message": "too many messages"},
    ),
    (
        "event",
        "of a room",
        {
            "v": 1, "t": "event", "room": "chat:42", "event": "message:new", "data": {"text": "hi"}, "seq": 119,
            "epoch": "k3", "ts": NOW, "mid": "01JA", "sender": "alice",
        },
    ),
    (
        "lost",
        "events 123 to 140 will not come",
        {"v": 1, "t": "lost", "room": "chat:42", "data": {"from": 123, "to": 140, "reason": "slow"}, "epoch": "k3"},
    ),
    (
        "event-to-user",
        "to says for whom an event without a room is",
        {"v": 1, "t": "event", "event": "note", "data": 1, "seq": 2, "epoch": "b9", "ts": NOW, "mid": "m", "to": "user"},
    ),
    ("pong", "with the data of its ping", {"v": 1, "t": "pong", "id": 12, "data": 7, "ts": NOW}),
    (
        "closing",
        "before a restart",
        {"v": 1, "t": "closing", "data": {"reconnect": True, "retry_after": 0.25}, "code": 1012, "message": "restarting"},
    ),
    # Every kind of value.
    ("not-critical", "false is not null", {"v": 1, "t": "publish", "event": "e", "critical": False}),
    ("no-data", "absent data is null", {"v": 1, "t": "ping"}),
    ("false", "false is not null", {"v": 1, "t": "ping", "data": False}),
    ("zero", "0 is not null", {"v": 1, "t": "ping", "id": 0, "data": 0}),
    ("empty-text", "empty text is not null", {"v": 1, "t": "ping", "data": ""}),
    ("empty-array", "an empty array is not null", {"v": 1, "t": "ping", "data": []}),
    ("empty-map", "an empty map is not null", {"v": 1, "t": "ping", "data": {}}),
    ("nulls-inside", "null inside data stays", {"v": 1, "t": "ping", "data": {"a": None, "b": [None]}}),
    ("float", "a float", {"v": 1, "t": "ping", "data": 2.5}),
    ("integral-float", "1.0 stays a float where the language has both", {"v": 1, "t": "ping", "data": 1.0}),
    ("negative-zero", "-0.0 keeps its sign where the language has one", {"v": 1, "t": "ping", "data": -0.0}),
    ("negative", "a negative integer", {"v": 1, "t": "ping", "data": -500}),
    (
        "unicode",
        "two, three and four bytes of UTF-8; U+007F is an ordinary character in text",
        {"v": 1, "t": "event", "room": "café", "event": "grüße", "data": {"ключ": "日本 🚣", "del": "\x7f"}},
    ),
    ("escapes", "characters that JSON must escape", {"v": 1, "t": "ping", "data": "\"\\\n\r\t\u0001"}),
    ("map-keys", "keys of a map are any text, also empty and numeric", {"v": 1, "t": "ping", "data": {"": 1, "1": 2}}),
    # Other ways to write the same: accepted, not written by the server.
    (
        "unknown-key",
        "unknown keys are ignored; in CBOR an unknown integer (99) or text, also the name of a field",
        {"v": 1, "t": "ping", "id": 1},
        '{"v":1,"t":"ping","id":1,"0":2,"extra":{"deep":[1]}}',
        "a5 00 01 01 0f 02 01 18 63 a1 6464656570 81 01 61 76 02",
    ),
    (
        "null-key",
        "a key whose value is null is an absent key",
        {"v": 1, "t": "ping", "id": 1},
        '{"v":1,"t":"ping","id":1,"room":null,"data":null,"seq":null}',
        "a6 00 01 01 0f 02 01 03 f6 05 f6 06 f6",
    ),
    (
        "any-order",
        "the order of keys means nothing",
        {"v": 1, "t": "ping", "id": 1},
        '{"id":1,"t":"ping","v":1}',
        "a3 02 01 01 0f 00 01",
    ),
    (
        "white-space",
        "white space between JSON's tokens; longer CBOR heads than needed",
        {"v": 1, "t": "ping", "id": 1},
        ' {\t"v" : 1,\r\n "t":"ping" , "id":1 } ',
        "b9 0003 1800 1b0000000000000001 01 1a0000000f 02 01",
    ),
    (
        "escaped-names",
        "JSON escapes also in names; CBOR floats of 16 and 32 bits",
        {"v": 1, "t": "ping", "data": [1.5, 0.25]},
        '{"\\u0076":1,"\\u0074":"pin\\u0067","data":[1.5,25e-2]}',
        "a3 00 01 01 0f 05 82 f9 3e00 fa 3e800000",
    ),
    (
        "surrogate-pair",
        "an escaped pair of surrogates is one character",
        {"v": 1, "t": "ping", "data": "🚣"},
        '{"v":1,"t":"ping","data":"\\ud83d\\udea3"}',
        "a3 00 01 01 0f 05 64 f09f9aa3",
    ),
]  # fmt: skip


def _nested(containers: int) -> Any:
    value: Any = 1
    for _ in range(containers):
        value = [value]
    return value


def _maps(containers: int) -> Any:
    value: Any = {}
    for _ in range(containers - 1):
        value = {"k": value}
    return value


MIN, MAX = -(2**63), 2**63 - 1

BOUNDARY_VALID: list[tuple[Any, ...]] = [
    ("depth-16-arrays", "the envelope and 15 arrays", {"v": 1, "t": "ping", "data": _nested(15)}),
    ("depth-16-maps", "the envelope and 15 maps, the last one empty", {"v": 1, "t": "ping", "data": _maps(15)}),
    ("publish-depth-12", "12 arrays in what is published", {"v": 1, "t": "publish", "room": "r", "event": "e", "data": _nested(12)}),
    ("send-depth-15", "not so for other kinds", {"v": 1, "t": "send", "event": "e", "data": _nested(15)}),
    ("min-int", "-2^63", {"v": 1, "t": "ping", "data": MIN}),
    ("max-int", "2^63-1", {"v": 1, "t": "ping", "data": MAX}),
    ("max-numbers", "2^63-1 in the fields", {"v": 1, "t": "event", "id": MAX, "event": "e", "seq": MAX, "ts": MAX, "code": MAX}),
    ("max-float", "the largest float", {"v": 1, "t": "ping", "data": [1.7976931348623157e308, -1.7976931348623157e308]}),
    ("min-float", "the smallest float", {"v": 1, "t": "ping", "data": 5e-324}),
    *(
        (f"int-{number}", "where CBOR's heads change length", {"v": 1, "t": "ping", "id": number, "data": [number, -1 - number]})
        for number in (23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32)
    ),
    *(
        (f"text-{length}", "where CBOR's heads change length", {"v": 1, "t": "error", "code": 100, "message": "x" * length})
        for length in (23, 24, 255, 256)
    ),
    ("array-24", "where CBOR's heads change length", {"v": 1, "t": "ping", "data": [0] * 24}),
    ("map-24", "where CBOR's heads change length", {"v": 1, "t": "ping", "data": {f"k{n}": n for n in range(24)}}),
    (
        "longest-names",
        "room of 200 bytes, event and mid of 100",
        {"v": 1, "t": "publish", "room": "r" * 200, "event": "é" * 50, "mid": "m" * 100},
    ),
    (
        "every-field",
        "all of them",
        {
            "v": 1, "t": "event", "id": 1, "room": "r", "event": "e", "data": [None], "seq": 2, "epoch": "k",
            "ts": 3, "mid": "m", "sender": "s", "code": 4, "message": "x", "critical": True,
            "to": "user",
        },
    ),
    (
        "many-unknown-keys",
        "more pairs than CBOR's short head has room for",
        {"v": 1, "t": "ping"},
        '{"v":1,"t":"ping",' + ",".join(f'"x{n}":{n}' for n in range(30)) + "}",
        "b820 0001 010f" + "".join(f"18{n:02x} 00" for n in range(100, 130)),
    ),
]  # fmt: skip
