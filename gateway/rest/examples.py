"""An example for each schema of the OpenAPI document, put together from examples of its fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["add_examples"]

_WHEN: Final = 1_760_000_000_000
_EPOCH: Final = "k3v9"
_MID: Final = "01JA7Q2M9D"
_CONNECTION: Final = "n1-4f2a"

_BY_NAME: Final[Mapping[str, Any]] = {
    "action": {"type": "open", "label": "Open", "payload": {"task": "deploy"}},
    "address": "10.0.0.7:8000",
    "agent": "researcher",
    "client_id": "web-1",
    "code": 202,
    "comment": "looks good",
    "connection": _CONNECTION,
    "cursor": "MTcwMDA",
    "data": {"text": "hello"},
    "deadline": 600,
    "decision": {"choice": "approve", "user": "alice", "at": _WHEN},
    "detail": "this token may not publish to this room",
    "epoch": _EPOCH,
    "error": "the search did not answer",
    "event": "message:new",
    "execution": "run-17",
    "fallback": "reject",
    "input": {"question": "How fast is it?"},
    "ip": "192.0.2.7",
    "jti": "8c1f0a",
    "message": "The report is ready",
    "meta": {"device": "tablet"},
    "metadata": {"version": "1.4"},
    "method": "summarise",
    "mid": _MID,
    "next": "MTcwMDA",
    "node": "n1",
    "org": "acme",
    "progress": 40,
    "reason": "drop_oldest",
    "result": {"pages": 3},
    "role": "admin",
    "room": "chat:42",
    "sender": "alice",
    "step": "reading sources",
    "subprotocol": "trireme.v1.json",
    "task": "deploy",
    "team": "support",
    "ticket": "b2c4",
    "title": "Report",
    "token": "eyJhbGciOi…",
    "tools": ["search"],
    "ttl": 3600,
    "type": "info",
    "user": "alice",
    "user_agent": "Mozilla/5.0",
    "users": ["alice", "bob"],
    "version": 3,
}
_TIMES: Final = ("_at", "ts", "expires", "started", "last_activity")
_OFFERED: Final = frozenset({"data", "progress", "role", "room", "step", "ttl", "user", "users"})
"""Optional members that the example of a request shows."""


def add_examples(document: dict[str, Any]) -> None:
    """Give every schema under ``components`` that has none an ``examples`` with one valid value."""
    schemas: dict[str, dict[str, Any]] = document["components"]["schemas"]
    made = {name: _example("", schema, schemas, ()) for name, schema in schemas.items()}
    for name, schema in schemas.items():
        schema.setdefault("examples", [made[name]])


def _example(
    name: str, schema: Mapping[str, Any], schemas: Mapping[str, Any], within: tuple[str, ...]
) -> Any:
    if "$ref" in schema:
        target = schema["$ref"].rpartition("/")[2]
        return _example(name, schemas[target], schemas, (*within, target))
    choices = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    if choices:
        return _example(name, choices[0], schemas, within)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        known = _BY_NAME.get(name)
        return known if known in schema["enum"] else schema["enum"][0]
    kind = schema.get("type")
    if kind == "object" and "properties" in schema:
        return _members(schema, schemas, within)
    known = _known(name, kind)
    if known is not None:
        return known
    if kind == "object":
        inner = schema.get("additionalProperties")
        return {"chat:42": _example("", inner, schemas, within)} if isinstance(inner, dict) else {}
    if kind == "array":
        inner = schema.get("items")
        return [_example(name.removesuffix("s"), inner, schemas, within)] if inner else []
    least = schema.get("minimum", 1)
    return {"string": name or "text", "integer": least, "number": least, "boolean": True}.get(str(kind))


def _known(name: str, kind: Any) -> Any:
    types: dict[Any, tuple[type, ...]] = {
        "string": (str,),
        "integer": (int,),
        "number": (int, float),
        "array": (list,),
        "object": (dict,),
    }
    if kind == "integer" and name.endswith(_TIMES):
        return _WHEN
    value = _BY_NAME.get(name)
    return value if kind is None or isinstance(value, types.get(kind, ())) else None


def _members(
    schema: Mapping[str, Any], schemas: Mapping[str, Any], within: tuple[str, ...]
) -> dict[str, Any]:
    properties: Mapping[str, Any] = schema["properties"]
    required = set(schema.get("required", ()))
    asks = schema.get("additionalProperties") is False
    shown = {}
    for name, each in properties.items():
        if name not in required and asks and name not in _OFFERED:
            continue
        if name == "users" and asks and "user" in properties and name not in required:
            continue  # one or the other
        if name == "role" and asks and "users" in properties:
            continue
        if _leads_to(each) & set(within):
            continue
        value = _example(name, each, schemas, within)
        if value is not None or name in required:
            shown[name] = value
    return shown


def _leads_to(schema: Any) -> set[str]:
    """The schemas that ``schema`` refers to."""
    if isinstance(schema, dict):
        own = {schema["$ref"].rpartition("/")[2]} if isinstance(schema.get("$ref"), str) else set()
        return own.union(*(_leads_to(each) for each in schema.values()))
    if isinstance(schema, list):
        return set[str]().union(*(_leads_to(each) for each in schema))
    return set()
