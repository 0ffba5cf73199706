"""The AsyncAPI 3 document: what goes over a connection, made of the table of kinds and the types of events.

Actions are said from the gateway's side, as AsyncAPI wants it: it *receives* what clients send.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any, Final

import msgspec

from gateway.version import VERSION
from protocol.envelope import MAX_EVENT_BYTES, MAX_MID_BYTES, MAX_ROOM_BYTES
from protocol.kinds import EVENT_FIELDS, FIELDS, TABLE, Kind
from protocol.registry import EventType
from protocol.values import MAX_INT

__all__ = ["asyncapi_document"]

_DESCRIPTION: Final = """\
The messages of a Trireme gateway: the kinds of its envelope, and the typed events that go in them.

One connection, `/ws`, carries everything. This document shows the envelope in JSON (`trireme.v1.json`); CBOR
(`trireme.v1.cbor`) says the same with small integer keys. The other channels have no address: they are rooms,
and the organisation. A client joins a room and gets its events as messages of the kind `event`. Events that
have no type here may be published as well.
"""

_TEXTS: Final = {"room": MAX_ROOM_BYTES, "event": MAX_EVENT_BYTES, "mid": MAX_MID_BYTES}
_MESSAGES: Final = "#/components/messages/"
_CONNECTION: Final = "#/channels/connection"

Json = dict[str, Any]


def asyncapi_document(types: Collection[EventType]) -> bytes:
    """The document as JSON, with these types of events; takes some ten milliseconds."""
    events = sorted(types, key=lambda each: each.name)
    keys = _keys(f"event.{each.name}" for each in events)
    named = list(zip(keys, events, strict=True))
    schemas, components = msgspec.json.schema_components(
        [each.kind for each in events], ref_template="#/components/schemas/{name}"
    )
    messages = {_key(kind, sender): _kind(kind, sender) for kind, sender in _directions()}
    for (key, each), schema in zip(named, schemas, strict=True):
        messages[key] = _event(each, schema)
    channels: Json = {"connection": _connection()}
    operations: Json = {_key(kind, sender): _operation(kind, sender) for kind, sender in _directions()}
    for name, channel, ours in _places(named):
        channels[name] = channel | {"messages": {key: {"$ref": _MESSAGES + key} for key in ours}}
        for action, verb in (("receive", "publish"), ("send", "deliver")):
            operations[f"{verb}.{name}"] = {
                "action": action,
                "channel": {"$ref": f"#/channels/{name}"},
                "messages": [{"$ref": f"#/channels/{name}/messages/{key}"} for key in ours],
            }
    return msgspec.json.encode(
        {
            "asyncapi": "3.0.0",
            "info": {"title": "Trireme", "version": VERSION, "description": _DESCRIPTION},
            "defaultContentType": "application/json",
            "servers": {name: _server(name) for name in ("ws", "wss")},
            "channels": channels,
            "operations": operations,
            "components": {
                "messages": messages,
                "schemas": dict(components),
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                    "token": {"type": "httpApiKey", "in": "query", "name": "token"},
                    "ticket": {"type": "httpApiKey", "in": "query", "name": "ticket"},
                },
            },
        }
    )


def _server(protocol: str) -> Json:
    return {
        "host": "{host}",
        "protocol": protocol,
        "variables": {
            "host": {"default": "127.0.0.1:8000", "description": "The gateway's address and port."}
        },
        "security": [
            {"$ref": f"#/components/securitySchemes/{name}"} for name in ("bearer", "token", "ticket")
        ],
    }


# --- kinds ------------------------------------------------------------------------------------------


def _directions() -> Iterable[tuple[Kind, str]]:
    """Each kind with who sends it; one that both send comes twice."""
    for kind in TABLE:
        for sender in ("client", "server") if kind.sender == "both" else (kind.sender,):
            yield kind, sender


def _key(kind: Kind, sender: str) -> str:
    return f"{kind.name}.{sender}" if kind.sender == "both" else kind.name


def _kind(kind: Kind, sender: str) -> Json:
    fields = ("id", *kind.fields) if sender == "client" else kind.told
    return {
        "name": kind.name,
        "title": kind.name,
        "summary": kind.summary,
        "payload": _envelope(kind.name, fields),
    }


def _envelope(kind: str, fields: Iterable[str], **known: Json) -> Json:
    properties = {"v": {"const": 1}, "t": {"const": kind}}
    for field in FIELDS:
        if field.name in fields and field.name not in properties:
            properties[field.name] = known.get(field.name, _field(field.name, field.type))
    return {"type": "object", "properties": properties, "required": ["v", "t", *known]}


def _field(name: str, kind: str) -> Json:
    match kind:
        case "unsigned":
            return _UNSIGNED
        case "boolean":
            return {"type": "boolean"}
        case "text":
            return {"type": "string", **({"maxLength": _TEXTS[name]} if name in _TEXTS else {})}
        case _:
            return {}


_UNSIGNED: Final[Json] = {"type": "integer", "minimum": 0, "maximum": MAX_INT}


def _connection() -> Json:
    messages = {
        _key(kind, sender): {"$ref": _MESSAGES + _key(kind, sender)} for kind, sender in _directions()
    }
    query = {
        "type": "object",
        "properties": {
            "token": {"type": "string", "description": "A token, in the place of the header Authorization."},
            "ticket": {"type": "string", "description": "A ticket, good once, in the place of a token."},
            "client": {"type": "string", "description": "The client's own id, shown with the connection."},
        },
    }
    return {
        "address": "/ws",
        "title": "The connection",
        "messages": messages,
        "bindings": {"ws": {"method": "GET", "query": query, "bindingVersion": "0.1.0"}},
    }


def _operation(kind: Kind, sender: str) -> Json:
    operation: Json = {
        "action": "receive" if sender == "client" else "send",
        "channel": {"$ref": _CONNECTION},
        "summary": kind.summary,
        "messages": [{"$ref": f"{_CONNECTION}/messages/{_key(kind, sender)}"}],
    }
    if sender == "client":
        answers = ("pong" if kind.name == "ping" else "reply", "error")
        operation["reply"] = {
            "channel": {"$ref": _CONNECTION},
            "messages": [{"$ref": f"{_CONNECTION}/messages/{each}"} for each in answers],
        }
    return operation


# --- events -----------------------------------------------------------------------------------------


def _event(each: EventType, schema: Json) -> Json:
    payload = _envelope("event", EVENT_FIELDS, event={"const": each.name}, data=schema)
    return {"name": each.name, "title": each.kind.__name__, "payload": payload}


def _places(named: Iterable[tuple[str, EventType]]) -> Iterable[tuple[str, Json, list[str]]]:
    """Where the events go: the channel's key, the channel, and the keys of its messages."""
    found: dict[str | bool | None, list[str]] = {}
    for key, each in named:
        found.setdefault(True if each.needs_room else each.room, []).append(key)
    rooms = sorted(place for place in found if isinstance(place, str))
    for key, room in zip(_keys(f"room.{room}" for room in rooms), rooms, strict=True):
        yield key, {"address": None, "title": f"The room {room}", "x-room": room}, found[room]
    if True in found:
        yield "rooms", {"address": None, "title": "Any room; it has to be named"}, found[True]
    if None in found:
        title = "The organisation, unless a room is named"
        yield "organisation", {"address": None, "title": title}, found[None]


def _keys(names: Iterable[str]) -> list[str]:
    """Different keys of components, which hold less than names may."""
    keys: dict[str, None] = {}
    for name in names:
        key = plain = re.sub(r"[^A-Za-z0-9_.-]", ".", name)
        number = 2
        while key in keys:
            key, number = f"{plain}-{number}", number + 1
        keys[key] = None
    return list(keys)
