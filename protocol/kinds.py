"""The one table of what a message may be: its fields and its kinds.

Everything that lists them follows from here (the codecs' keys, ``Envelope``, ``CLIENT_KINDS``, what HTTP may
bring, the AsyncAPI document), is written from here (``python -m tests.protocol.make_kinds``: the kinds of the
grammar and of the browser's client) or is held to it by ``tests/protocol/test_kinds.py``: the vectors, the
tables of ``docs/protocol.md``, and the gateway's dispatch. A new command begins with a line in ``TABLE``.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

__all__ = [
    "EVENT_FIELDS",
    "FIELDS",
    "KEPT_FIELDS",
    "OVER_HTTP",
    "RESERVED_FIELDS",
    "RESERVED_KINDS",
    "TABLE",
    "Field",
    "Kind",
]


class Field(NamedTuple):
    """One key of the envelope."""

    name: str
    """Its key in JSON."""
    key: int
    """Its key in CBOR."""
    type: Literal["version", "kind", "unsigned", "text", "value", "boolean"]


FIELDS: Final = (
    Field("v", 0, "version"),
    Field("t", 1, "kind"),
    Field("id", 2, "unsigned"),
    Field("room", 3, "text"),
    Field("event", 4, "text"),
    Field("data", 5, "value"),
    Field("seq", 6, "unsigned"),
    Field("epoch", 7, "text"),
    Field("ts", 8, "unsigned"),
    Field("mid", 9, "text"),
    Field("sender", 10, "text"),
    Field("code", 11, "unsigned"),
    Field("message", 12, "text"),
    Field("critical", 13, "boolean"),
    Field("to", 14, "text"),
)
RESERVED_FIELDS: Final = {"stream": 15}
"""Name → CBOR key of what later versions of the gateway will use; unknown keys today."""

EVENT_FIELDS: Final = ("room", "event", "data", "seq", "epoch", "ts", "mid", "sender", "critical", "to")
"""What an event may say, live."""
KEPT_FIELDS: Final = ("seq", "event", "data", "ts", "mid", "sender", "critical")
"""What an event says in a page of history, which names the room and the epoch once."""


class Kind(NamedTuple):
    """One kind of message."""

    name: str
    """``t`` in JSON."""
    number: int
    """``t`` in CBOR: 1 to 23 take one byte."""
    sender: Literal["client", "server", "both"]
    summary: str
    """What it is for, in a line."""
    fields: tuple[str, ...] = ()
    """What a client may send with it, beside ``v``, ``t`` and ``id``. Other fields are ignored."""
    told: tuple[str, ...] = ()
    """What the server may send with it, beside ``v`` and ``t``."""
    permission: str | None = None
    """What the token must grant, for the room or target that it names; ``data`` may ask for more."""
    publishes: bool = False
    """Its ``data`` becomes that of an event that is kept: see ``values.check_event_data``."""
    over_http: bool = False
    """It belongs to no connection, so that HTTP can bring it as well as a socket."""


TABLE: Final = (
    Kind("auth", 1, "client", "Authenticate a connection that was opened without a token.", ("data",)),
    Kind("refresh", 2, "client", "Renew the token of the open connection.", ("data",)),
    Kind(
        "join",
        3,
        "client",
        "Join a room, or take up the organisation's and the user's order.",
        ("room", "data"),
        permission="join",
    ),
    Kind("leave", 4, "client", "Leave a room.", ("room",)),
    Kind("subscribe", 5, "client", "Let events through whose names match.", ("data",)),
    Kind("unsubscribe", 6, "client", "Hold events back whose names match.", ("data",)),
    Kind(
        "publish",
        7,
        "client",
        "Publish an event to a room, or without `room` to the organisation.",
        ("room", "event", "data", "mid", "critical"),
        permission="publish",
        publishes=True,
        over_http=True,
    ),
    Kind(
        "send",
        8,
        "client",
        "Send an event to users or to one connection.",
        ("event", "data", "mid"),
        permission="publish",
        over_http=True,
    ),
    Kind("call", 9, "client", "Call a handler of the backend.", ("event", "data"), over_http=True),
    Kind("ack", 10, "client", "Note how far this client has got.", ("room", "seq", "epoch")),
    Kind(
        "history", 11, "client", "Read kept events.", ("room", "data"), permission="history", over_http=True
    ),
    Kind(
        "presence",
        12,
        "both",
        "Who is in a room; from the gateway, who came or left.",
        ("room",),
        ("room", "event", "ts", "data"),
        permission="presence",
        over_http=True,
    ),
    Kind("info", 13, "client", "What the gateway knows of this connection."),
    Kind("stats", 14, "client", "Statistics of the organisation.", over_http=True),
    Kind("ping", 15, "client", "Ask for a `pong`.", ("data",), over_http=True),
    Kind(
        "typing",
        16,
        "client",
        "Tell the others in a room that this user types, or no more.",
        ("room", "data"),
        permission="publish",
        over_http=True,
    ),
    Kind("connected", 17, "server", "The first message on a connection.", told=("id", "ts", "data")),
    Kind(
        "reply",
        18,
        "server",
        "The answer to a command with an `id`.",
        told=("id", "room", "data", "seq", "epoch", "mid"),
    ),
    Kind(
        "error",
        19,
        "server",
        "A command was refused; `code` is a number of docs/protocol.md.",
        told=("id", "room", "code", "message", "data"),
    ),
    Kind(
        "event",
        20,
        "server",
        "An event of a room, of the organisation, or sent to the user.",
        told=EVENT_FIELDS,
    ),
    Kind("lost", 21, "server", "Events that this client will not get.", told=("room", "epoch", "data", "to")),
    Kind("pong", 22, "server", "The answer to `ping`.", told=("id", "ts", "data")),
    Kind(
        "closing",
        23,
        "server",
        "The gateway is about to close the connection.",
        told=("code", "message", "data"),
    ),
)
OVER_HTTP: Final = frozenset(kind.name for kind in TABLE if kind.over_http)
"""Commands that HTTP can bring as well as a socket."""
RESERVED_KINDS: Final = {"stream": 24, "append": 25, "finish": 26}
"""Name → number of what later versions of the gateway will use (messages that grow); unknown kinds today."""
