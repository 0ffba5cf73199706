"""Where a gateway is, and what carries messages to it and back; the sockets themselves are elsewhere."""

from __future__ import annotations

import http
import ssl
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import anyio.abc
import msgspec

from gateway.client.errors import ConnectionFailed, ConnectionRefused

__all__ = ["Address", "Asked", "SocketClosed", "Sockets", "Transport", "dial_failed", "parse_url", "refused"]

_REASON_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Address:
    """Where the gateway is."""

    host: str
    port: int
    resource: str
    tls: bool

    @property
    def authority(self) -> str:
        """The Host header (RFC 9110, section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def parse_url(url: str) -> Address:
    """Understand ``ws://``, ``wss://``, ``http://`` and ``https://``; without a path it is ``/ws``.

    Raises ValueError for anything else.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss", "http", "https") or not parts.hostname:
        raise ValueError(f"not the address of a gateway, such as ws://127.0.0.1:8000/ws: {url!r}")
    tls = parts.scheme in ("wss", "https")
    path = parts.path if parts.path not in ("", "/") else "/ws"
    resource = f"{path}?{parts.query}" if parts.query else path
    return Address(parts.hostname, parts.port or (443 if tls else 80), resource, tls)


class SocketClosed(Exception):
    """The WebSocket is closed; 1006 when there was no Close frame (RFC 6455, section 7.1.5)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Transport(Protocol):
    """Carries whole messages in one encoding. One task may send, and one receive."""

    @property
    def last_received(self) -> float:
        """The loop's time at which anything last came in."""

    async def send(self, payload: bytes) -> None:
        """Send one message. A cancelled send ends the connection. Raises :class:`SocketClosed`."""

    async def receive(self) -> bytes:
        """Wait for one message. Raises :class:`SocketClosed`."""

    async def aclose(self, code: int, timeout: float) -> None:
        """Close with ``code``, also when cancelled; a handshake gets at most ``timeout`` seconds."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a WebSocket is asked for."""

    address: Address
    subprotocol: str
    binary: bool
    headers: dict[str, str]
    max_message_bytes: int


class Sockets(Protocol):
    """Opens WebSockets on one event loop."""

    async def open(self, tasks: anyio.abc.TaskGroup, asked: Asked) -> Transport:
        """Connect and upgrade; what it starts in ``tasks`` lives until ``aclose``. Has no deadline.

        Raises :class:`~gateway.client.errors.ConnectError`.
        """


def dial_failed(address: Address, error: BaseException) -> ConnectionFailed:
    """The error for a host that cannot be reached."""
    # A certificate does not become valid by trying again.
    retry = not isinstance(error, ssl.SSLCertVerificationError)
    return ConnectionFailed(f"cannot connect to {address.authority}: {error}", retry=retry, reached=False)


def refused(address: Address, status: int, body: bytes, retry_after: str | None) -> ConnectionRefused:
    """The error for an HTTP answer in place of a connection."""
    reason, code = _reason(status, body)
    return ConnectionRefused(
        status, reason, retry_after=_seconds(retry_after), address=address.authority, code=code
    )


def _reason(status: int, body: bytes) -> tuple[str, int | None]:
    """The ``detail`` and ``code`` of a problem document (RFC 9457), or else what the body or status says."""
    try:
        problem: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = None
    if isinstance(problem, dict):
        text = problem.get("detail") or problem.get("title")
        code = problem.get("code")
        if isinstance(text, str):
            return text[:_REASON_CHARACTERS], code if isinstance(code, int) else None
    text = " ".join(body.decode(errors="replace").split())
    if text:
        return text[:_REASON_CHARACTERS], None
    try:
        return http.HTTPStatus(status).phrase, None
    except ValueError:
        return "no reason was given", None


def _seconds(header: str | None) -> float | None:
    """Retry-After in seconds; one that names a date is not used."""
    return float(header) if header is not None and header.isascii() and header.isdigit() else None
