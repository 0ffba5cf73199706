"""Asking for a WebSocket by hand, to see exactly what is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import trio

from tests.support import DEADLINE

__all__ = ["Answer", "knock", "request_head"]

_KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Listening(Protocol):
    """A gateway, here or in a process of its own."""

    port: Any


@dataclass
class Answer:
    """What came back: the head, and behind a refusal the body, up to the end of the stream."""

    status: int
    headers: dict[str, str]
    """Lower-case names."""
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document (RFC 9457); fails when it is none."""
        assert self.headers["content-type"] == "application/problem+json", self.headers
        assert int(self.headers["content-length"]) == len(self.body)
        document: dict[str, Any] = msgspec.json.decode(self.body)
        assert document["status"] == self.status
        assert document["type"] == f"/docs#error-{document['code']}"
        assert document["title"] and document["detail"]
        return document


def request_head(
    path: str, *, subprotocols: Sequence[str] = (), headers: Sequence[tuple[str, str]] = ()
) -> bytes:
    """An upgrade request; ``headers`` come behind the usual ones."""
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {_KEY}",
        *(f"Sec-WebSocket-Protocol: {name}" for name in subprotocols),
        *(f"{name}: {value}" for name, value in headers),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def knock(
    gateway: Listening,
    path: str = "/ws",
    *,
    subprotocols: Sequence[str] = (),
    headers: Sequence[tuple[str, str]] = (),
    stream: trio.SocketStream | None = None,
) -> Answer:
    """Ask once, on ``stream`` or a new connection; closes it.

    A refusal is read to its end, which the gateway has to make: we keep our side open.
    """
    with trio.fail_after(DEADLINE):
        async with stream or await trio.open_tcp_stream("127.0.0.1", gateway.port) as stream:
            await stream.send_all(request_head(path, subprotocols=subprotocols, headers=headers))
            data = b""
            while chunk := await stream.receive_some():
                data += chunk
                if data.startswith(b"HTTP/1.1 101") and b"\r\n\r\n" in data:
                    break
    head, _, body = data.partition(b"\r\n\r\n")
    first, *fields = head.decode("latin-1").split("\r\n")
    pairs = (field.partition(": ") for field in fields)
    return Answer(int(first.split()[1]), {name.lower(): value for name, _, value in pairs}, body)
