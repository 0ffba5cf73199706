"""What well-behaved peers say: tokens, request heads, commands. The mutations start from here.

Everything is chosen by the ``Random`` that is given, and nothing depends on the clock or on what the
gateway answered, so that a session is the same bytes each time.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import cbor2
import jwt

from gateway.testing.settings import SECRET
from protocol.envelope import KEYS, KINDS

FAR: Final = 4_102_444_800
"""The first second of the year 2100: when tokens here expire."""
KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="
EVENTS: Final = ("message:new", "task:created", "typing:x", "agent_created", "a", "métrique", "e" * 100)
PATTERNS: Final = ("*", "all", "message:*", "*:created", "a*b*c", "task:created", "nothing")
POLICIES: Final = ("disconnect", "drop_oldest", "conflate", "replay")
VALUES: Final[tuple[Any, ...]] = (
    None, True, 0, -1, 23, 24, 255, 256, 65536, 2**32, 2**63 - 1, -(2**63), 0.5, -1e300, "", "x", "ü€🚣",
    "y" * 200, [], {}, [1, [2, [3]]], {"a": {"b": [None, "c"]}}, {"key": "k1", "text": "hello"},
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a session stands: its organisation, user and rooms, each shared with a few others."""

    org: str
    user: str
    rooms: tuple[str, ...]

    @classmethod
    def of(cls, number: int) -> Place:
        group = number // 8
        rooms = (f"chat:{group % 31}", f"chat:{group % 31}:b", f"task {group % 31}", "lobby")
        return cls(f"org{group % 8}", f"u{number % 4}", rooms)

    @property
    def resume(self) -> str:
        """A resume token that the gateway under test knows (``tests/fuzz/batch.py``)."""
        return resume_token(self.org, self.user)


def resume_token(org: str, user: str) -> str:
    return f"resume-of-{org}-{user}-0123456789"


@functools.cache
def token(org: str, user: str | None, kind: str = "member") -> str:
    """A token: of a ``member``, a ``service``, a ``limited`` one, or one of the bad kinds."""
    claims: dict[str, Any] = {"org": org, "sub": user, "exp": FAR, "jti": f"{org}-{user}-{kind}"}
    secret = SECRET
    match kind:
        case "service":
            claims["roles"] = ["service"]
            del claims["sub"]
        case "limited":
            claims["rooms"] = {"chat:*": ["join", "history"], "user:*": ["publish"]}
        case "expired":
            claims["exp"] = 1_000_000_000
        case "forged":
            secret = SECRET[::-1]
        case "nobody":
            del claims["org"]
    return jwt.encode({key: value for key, value in claims.items() if value is not None}, secret, "HS256")


def any_token(rng: Random, place: Place) -> str:
    """Mostly a good one."""
    kinds = ("member", "service", "limited", "expired", "forged", "nobody")
    kind = rng.choices(kinds, (70, 8, 12, 3, 4, 3))[0]
    return token(place.org, place.user, kind)


# --- WebSocket -------------------------------------------------------------------------------------


@dataclass
class Head:
    """An upgrade request."""

    target: str
    headers: list[tuple[str, str]]

    def build(self) -> bytes:
        lines = [f"GET {self.target} HTTP/1.1", *(f"{name}: {value}" for name, value in self.headers)]
        return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n"


def upgrade(rng: Random, place: Place, codec: str, *, jwt_: str | None) -> Head:
    """A good upgrade request for ``codec``; without a token when ``jwt_`` is None."""
    target, headers = "/ws", [("Host", "127.0.0.1")]
    if jwt_ is not None:
        if rng.random() < 0.6:
            target = f"/ws?token={jwt_}" + rng.choice(("", "&client=phone", "&x"))
        else:
            headers.append(("Authorization", f"Bearer {jwt_}"))
    headers += [
        ("Connection", rng.choice(("Upgrade", "keep-alive, Upgrade"))),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", KEY),
    ]
    if codec == "cbor":
        offers = rng.choice(("trireme.v1.cbor", "trireme.v1.json, trireme.v1.cbor", "x, trireme.v1.cbor"))
        headers.append(("Sec-WebSocket-Protocol", offers))
    elif rng.random() < 0.7:
        headers.append(("Sec-WebSocket-Protocol", "trireme.v1.json"))
    if rng.random() < 0.3:
        headers.append(("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"))
        headers.append(("User-Agent", "Mözilla/5.0 (x)"))
    return Head(target, headers)


def command(rng: Random, place: Place, id: int | None) -> dict[str, Any]:
    """One valid command; not always a permitted one."""
    kind = rng.choice(
        ("join", "join", "join", "publish", "publish", "publish", "leave", "subscribe", "unsubscribe", "send",
         "call", "ack", "history", "presence", "info", "stats", "ping", "ping", "typing", "refresh", "resume")
    )  # fmt: skip
    room = rng.choice(place.rooms)
    message: dict[str, Any] = {"v": 1, "t": kind}
    if id is not None:
        message["id"] = id
    match kind:
        case "join":
            message |= {"room": room, "data": _join(rng)}
        case "resume":
            positions = {each: _since(rng) for each in place.rooms if rng.random() < 0.3}
            message |= {"t": "join", "data": {"resume": place.resume, "positions": positions}}
        case "publish":
            message |= {"room": room, "event": rng.choice(EVENTS), "data": rng.choice(VALUES)}
            if rng.random() < 0.3:
                message["mid"] = f"m{rng.randrange(5)}"
            if rng.random() < 0.02:
                del message["room"]
        case "leave" | "presence" | "history" | "typing" | "ack":
            message["room"] = room
            if kind == "ack":
                message["seq"] = rng.choice((0, 1, 5, 2**40))
            if kind == "typing":
                message["data"] = {"state": rng.choice(("start", "stop"))}
            if kind == "history" and rng.random() < 0.7:
                message["data"] = {"since": _since(rng), "limit": rng.choice((1, 10, 256))}
        case "subscribe" | "unsubscribe":
            message["data"] = {"events": rng.sample(PATTERNS, rng.randrange(1, 4))}
        case "send":
            aim = {"user": f"u{rng.randrange(4)}"} if rng.random() < 0.7 else {"connection": "fuzz-1"}
            message |= {"event": rng.choice(EVENTS), "data": {**aim, "data": rng.choice(VALUES)}}
        case "call":
            message |= {
                "event": rng.choice(("echo", "refuse", "wait", "nowhere")),
                "data": rng.choice(VALUES),
            }
        case "ping":
            message["data"] = rng.choice(VALUES)
        case "refresh":
            message["data"] = {"token": any_token(rng, place)}
    return message


def _since(rng: Random) -> dict[str, Any]:
    return {"epoch": rng.choice(("", "old", "e" * 20)), "seq": rng.choice((0, 1, 7, 2**40))}


def _join(rng: Random) -> dict[str, Any] | None:
    data: dict[str, Any] = {}
    if rng.random() < 0.3:
        data["since"] = _since(rng)
    if rng.random() < 0.2:
        data["events"] = rng.sample(PATTERNS, 2)
    if rng.random() < 0.5:
        data["overflow"] = rng.choice(POLICIES)
    if rng.random() < 0.1:
        data["key"] = "text"
    return data or None


def encode(message: dict[str, Any], codec: str) -> bytes:
    """Write a message, also one that no codec of ours would write: bytes, huge integers, not-a-number."""
    try:
        if codec == "json":
            return json.dumps(message, separators=(",", ":"), default=str).encode()
        kinds = {**message, "t": KINDS.get(message["t"], message["t"])} if "t" in message else message
        return cbor2.dumps({KEYS.get(key, key): value for key, value in kinds.items()})
    except (UnicodeEncodeError, TypeError, RecursionError, cbor2.CBOREncodeError):
        return repr(message).encode("utf-8", "surrogatepass")


@functools.cache
def vectors(codec: str) -> tuple[bytes, ...]:
    """The payloads of the conformance vectors, good and bad."""
    folder = Path(__file__).parents[2] / "protocol" / "vectors"
    found = []
    for name in ("refused.json", "boundary.json", "valid.json"):
        read = json.loads((folder / name).read_text(encoding="utf-8"))
        for vector in read if isinstance(read, list) else [*read["valid"], *read["refused"]]:
            if codec == "json" and isinstance(text := vector.get("text", vector.get("json")), str):
                found.append(text.encode("utf-8", "surrogatepass"))
            elif codec == "cbor" and isinstance(digits := vector.get("hex", vector.get("cbor")), str):
                found.append(bytes.fromhex(digits))
    assert found, codec
    return tuple(found)


# --- REST ------------------------------------------------------------------------------------------

_GETS: Final = (
    "/healthz", "/readyz", "/metrics", "/", "/client.js", "/docs", "/favicon.ico", "/api/v1/stats",
    "/api/v1/connections?limit=2", "/api/v1/connections/fuzz-1", "/api/v1/rooms", "/api/v1/stats?org=other",
    "/api/v1/rooms/lobby/history?limit=3", "/api/v1/rooms/chat:1/presence", "/api/v1/nothing", "/ws",
    "/api/v1/messages/m1/trace?user=u1", "/api/v1/poll", "/%2e%2e/%00", "/api/v1/rooms/%ff/history",
)  # fmt: skip


def request(rng: Random, place: Place) -> bytes:
    """One valid HTTP request."""
    jwt_ = token(place.org, place.user) if rng.random() < 0.5 else token(place.org, None, "service")
    headers = ["Host: 127.0.0.1", f"Authorization: Bearer {jwt_}"]
    if rng.random() < 0.6:
        method = rng.choices(("GET", "HEAD", "OPTIONS", "DELETE"), (90, 4, 4, 2))[0]
        if rng.random() < 0.1:
            headers.append("Connection: close")
        if rng.random() < 0.1:
            headers += ["Origin: https://example.org", "If-None-Match: *"]
        return "\r\n".join([f"{method} {rng.choice(_GETS)} HTTP/1.1", *headers, "", ""]).encode()
    room = rng.choice(place.rooms)
    event = {"event": rng.choice(EVENTS), "data": rng.choice(VALUES)}
    path, body = rng.choice(
        (
            ("broadcast", {"room": room, **event, "exclude": ["u1"]}),
            ("broadcast", {"room": room, **event, "mid": "m1"}),
            ("users/u2/send", event),
            ("connections/fuzz-1/send", event),
            ("connections/fuzz-2/disconnect", {"reason": "out"}),
            ("batch", {"operations": [{"op": "broadcast", "room": room, **event}, {"op": "send", **event}]}),
            ("auth/ticket", {}),
            ("auth/token", {"user": "u9", "ttl": 60}),
            ("auth/refresh", {}),
            ("auth/revoke", {"jti": "of nobody"}),
        )
    )
    text = json.dumps(body).encode()
    headers.append("Content-Type: application/json")
    if rng.random() < 0.3:
        headers.append("Transfer-Encoding: chunked")
        cut = rng.randrange(len(text) + 1)
        text = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (text[:cut], text[cut:]) if part)
        text += b"0\r\n\r\n"
    else:
        headers.append(f"Content-Length: {len(text)}")
        if rng.random() < 0.1:
            headers.append("Expect: 100-continue")
    return "\r\n".join([f"POST /api/v1/{path} HTTP/1.1", *headers, "", ""]).encode() + text
