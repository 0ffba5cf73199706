"""What every setting means, as people read it: for ``gateway config`` and ``docs/configuration.md``.

The texts are the documentation strings of ``settings.py``, so they stand beside what they describe: what a
setting does, and after an empty line the reason for it or for its default.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import structs

from gateway.config import settings as source
from gateway.config.settings import CallSettings, Group, RoomEvents, RoomHistory, Settings, UserHistory

__all__ = ["EXAMPLES", "Described", "describe", "explain_group", "members", "toml_of"]

EXAMPLES: Final[dict[str, Any]] = {
    "broker": "redis://:password@cache.example:6379/0",
    "node": "gateway-1",
    "extensions": ["council"],
    "allowed_origins": ["https://app.example.com"],
    "trusted_proxies": ["10.0.0.0/8"],
    "weights": {"acme": 4},
    "calls.*.url": "https://backend.example/calls",
    "calls.*.secret": "whsec_replace-this-by-base64-of-32-random-bytes",
    "calls.*.roles": ["admin"],
    "events.patterns.*.types": ["invoice:*"],
    "history.patterns.*.messages": 1000,
    "history.patterns.*.bytes": 4194304,
    "history.patterns.*.age": 86400,
    "calls": {"pause_*": {"url": "https://backend.example/calls", "roles": ["member"]}},
    "database": "postgresql+psycopg://trireme@database.example/trireme",
    "auth.secret": "replace-this-by-32-random-bytes-or-more",
    "auth.public_key_file": "/etc/trireme/public.pem",
    "auth.private_key_file": "/etc/trireme/private.pem",
    "auth.jwks_url": "https://login.example.com/.well-known/jwks.json",
    "auth.audience": "realtime",
    "auth.issuer": "https://login.example.com/",
    "history.patterns": {"ticker:*": {"messages": 0}},
    "history.organisation": {"messages": 1000},
    "history.user": {"messages": 1000, "age": 604800},
    "events.patterns": {"billing": {"types": ["invoice:*"], "strict": True}},
    "executions.vocabularies": ["a"],
    "redis.ca_file": "/etc/trireme/redis-ca.pem",
    "tls.certificate": "/etc/trireme/certificate.pem",
    "tls.key": "/etc/trireme/key.pem",
}
"""What a setting may look like where its default does not show it."""

_UNITS: Final = {
    "auth.leeway": "seconds",
    "calls.*.timeout": "seconds",
    "supervisor.silence": "seconds",
    "cluster.lease": "seconds",
    "store.lease": "seconds",
    "store.notifications_keep": "days",
    "store.approvals_keep": "days",
    "store.approvals_longest": "seconds",
    "executions.stale": "seconds",
    "executions.keep": "days",
    "overload.loop_lag": "seconds",
    "suspicion.ban": "seconds",
    "drain.pace": "clients per second",
    "overload.memory_share": "a share of 1",
    "trace.sample": "a share of 1",
}
_GROUPS: Final[dict[type[Group], str]] = {
    CallSettings: "calls.*",
    RoomHistory: "history.patterns.*",
    RoomEvents: "events.patterns.*",
    UserHistory: "history.user",
}
_WORDS: Final = {str: "text", bool: "true or false", int: "whole number", float: "number"}


@dataclass(frozen=True, slots=True)
class Described:
    """One setting."""

    path: str
    """``port`` or ``auth.secret``."""
    kind: str
    """Type and range, in words."""
    unit: str
    """Empty where it is no quantity."""
    default: Any
    text: str
    """What it does, in Markdown."""
    reason: str
    """Why it is there, or why its default is what it is, in Markdown."""
    example: Any

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]


@functools.cache
def describe() -> dict[str, Described]:
    """Path → description of every setting, in the order of ``settings.py``."""
    return {each.path: each for each in _walk(Settings, "")}


def _walk(struct: type[Group], prefix: str) -> Iterator[Described]:
    texts = _texts()[struct.__name__]
    groups = []
    for field in structs.fields(struct):
        path = prefix + field.name
        if isinstance(field.type, type) and issubclass(field.type, Group) and not prefix:
            groups.append((field.type, f"{path}."))
            continue
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        default = None if default is msgspec.NODEFAULT else msgspec.to_builtins(default)
        kind, unit = _kind(field.type)
        unit = _UNITS.get(path, unit or _unit(struct, field.name))
        text, _, reason = inspect.cleandoc(texts.get(field.name, "")).partition("\n\n")
        example = EXAMPLES.get(path, default)
        yield Described(path, kind, unit, default, _line(text), _line(reason), example)
    for group, inner in groups:
        yield from _walk(group, inner)


def members(struct: type[Group]) -> list[Described]:
    """The fields of a table that is a value: of ``calls``, or of a pattern of ``history.patterns``."""
    return list(_walk(struct, _GROUPS[struct] + "."))


def explain_group(name: str) -> str:
    """What a group is about, in Markdown."""
    kind = next(field.type for field in structs.fields(Settings) if field.name == name)
    return _line(inspect.getdoc(kind) or "")


def _line(text: str) -> str:
    """Documentation strings are wrapped and mark code by ``two`` backticks; Markdown needs neither."""
    return " ".join(text.split()).replace("``", "`")


@functools.cache
def _texts() -> dict[str, dict[str, str]]:
    """Class → field → documentation string, which Python itself does not keep."""
    found: dict[str, dict[str, str]] = {}
    for owner in ast.parse(inspect.getsource(source)).body:
        if not isinstance(owner, ast.ClassDef):
            continue
        texts = found[owner.name] = {}
        for statement, following in zip(owner.body, owner.body[1:], strict=False):
            match statement, following:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                    texts[name] = text
    return found


def _unit(struct: type[Group], name: str) -> str:
    if struct.__name__ == "RateSettings" and name != "abuse_after":
        return "bytes per second" if name.startswith("bytes") else "per second"
    return "bytes" if name == "bytes" or name.endswith("_bytes") else ""


def _kind(kind: Any) -> tuple[str, str]:
    """Type with range, and unit."""
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f"`{each}`" for each in get_args(kind)), ""
    inner, unit, bounds = kind, "", ""
    for part in [] if get_origin(kind) in (list, dict) else [kind, *get_args(kind)]:
        for meta in getattr(part, "__metadata__", ()):
            unit = (meta.extra or {}).get("unit", unit)
            bounds = _bounds(meta)
            inner = part.__origin__
    if inner in _WORDS:
        return " ".join(filter(None, (_WORDS[inner], bounds))), unit
    container = get_origin(inner) or inner
    return "list of texts" if container is list else "table", unit


def _bounds(meta: msgspec.Meta) -> str:
    least = (
        f"from {meta.ge:,}" if meta.ge is not None else f"above {meta.gt:,}" if meta.gt is not None else ""
    )
    most = f"to {meta.le:,}" if meta.le is not None else ""
    return " ".join(filter(None, (least, most)))


def toml_of(value: Any) -> str:
    """``value`` as TOML writes it in one line."""
    if isinstance(value, dict):
        pairs = (f"{toml_of(key)} = {toml_of(each)}" for key, each in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_of, value)) + "]"
    return msgspec.json.encode(value).decode()
