"""Request heads that the listener answers itself, and the opening handshake (RFC 6455, section 4)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs

import h11

from gateway.problems import (
    CONTENT_TYPE,
    code_for_status,
    problem_bytes,
    problem_document,
    retry_after_header,
)
from protocol.errors import ErrorCode

__all__ = [
    "Refusal",
    "Request",
    "UpgradeRequest",
    "accept_response",
    "mark_of",
    "parse_request",
    "parse_upgrade",
    "refusal_response",
    "split_target",
]

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MAX_PARAMETERS: Final = 256
"""Query parameters of one upgrade; links collect some dozens."""


class Refusal(Exception):
    """The handshake is refused with an HTTP answer.

    ``code`` is an error number of ours, 0 for none; ``retry_after`` is in seconds.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        code: int = 0,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.code = code
        self.retry_after = retry_after
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class Request:
    """A well-formed GET request."""

    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    """Lower-case names; repeated headers are joined with a comma (RFC 9110, section 5.3)."""
    mark: bytes = field(default=b"", kw_only=True)
    """Stands for the whole head (16 bytes of BLAKE2b) where another request may follow it on its connection:
    of HTTP/1.1, without a body, and without ``Connection: close``. Otherwise empty."""

    def parameter(self, name: str) -> str | None:
        """The first value of a query parameter."""
        values = self.query.get(name)
        return values[0] if values else None


@dataclass(frozen=True, slots=True)
class UpgradeRequest(Request):
    """A well-formed request to upgrade to WebSocket version 13."""

    key: bytes
    subprotocols: list[str] = field(default_factory=list)


def parse_request(head: bytes, *, max_bytes: int) -> Request:
    """Parse the head of one GET request; raises :class:`Refusal` with the HTTP status."""
    _, target, version, headers = _parse(head, max_bytes)
    if version not in {b"1.0", b"1.1"}:
        raise Refusal(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    path, query = split_target(target)
    stays = (
        version == b"1.1"
        and "close" not in _tokens(headers.get("connection", ""))
        and _OF_A_BODY.isdisjoint(headers)
    )
    return Request(
        path=path,
        query=_parameters(query, errors="strict"),
        headers=headers,
        mark=mark_of(head) if stays else b"",
    )


def mark_of(head: bytes) -> bytes:
    """What :attr:`Request.mark` is of a head."""
    return hashlib.blake2b(head, digest_size=16).digest()


_Head = tuple[bytes, bytes, bytes, dict[str, str]]
"""Method, target, version and headers."""

_PLAIN: Final = re.compile(
    rb"GET ([!-~]++) HTTP/1\.1\r\n((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t -~\x80-\xff]*+\r\n)*+)\r\n"
)
"""What nearly every head is: well-formed beyond doubt (RFC 9112), and nothing in it for h11 to decide."""
_OF_A_BODY: Final = frozenset({"content-length", "transfer-encoding", "expect"})


def _parse(head: bytes, max_bytes: int) -> _Head:
    plain = _PLAIN.fullmatch(head) if len(head) <= max_bytes else None
    if plain is not None:
        headers = _plain_headers(plain[2].decode("latin-1"))
        if headers is not None:
            return b"GET", plain[1], b"1.1", headers
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=max_bytes)
    try:
        parser.receive_data(head)
        request = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise Refusal(error.error_status_hint, "the request cannot be understood") from None
    if not isinstance(request, h11.Request):
        raise Refusal(400, "the request head is incomplete")
    headers = {}
    for raw_name, raw_value in request.headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return request.method, request.target, request.http_version, headers


def _plain_headers(text: str) -> dict[str, str] | None:
    """The headers; None where one is repeated, the host is missing, or a body is announced."""
    headers: dict[str, str] = {}
    lines = text.split("\r\n")
    for line in lines[:-1]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip("\t ")
    if len(headers) != len(lines) - 1 or "host" not in headers or not _OF_A_BODY.isdisjoint(headers):
        return None
    return headers


def parse_upgrade(head: bytes, *, max_bytes: int) -> UpgradeRequest:
    """Parse one request head (with its closing blank line); raises :class:`Refusal` with the HTTP status."""
    method, target, version, headers = _parse(head, max_bytes)
    path, query = split_target(target)
    if method != b"GET":
        raise Refusal(405, "a WebSocket begins with GET", headers={"Allow": "GET"})
    if version != b"1.1":
        raise Refusal(505, "a WebSocket begins with HTTP/1.1 (RFC 6455, section 4.1)")
    if "upgrade" not in _tokens(headers.get("connection", "")) or "websocket" not in _tokens(
        headers.get("upgrade", "")
    ):
        raise Refusal(
            426,
            "this address speaks WebSocket: send Connection: Upgrade and Upgrade: websocket",
            headers={"Upgrade": "websocket"},
        )
    if headers.get("sec-websocket-version") != "13":
        raise Refusal(426, "only WebSocket version 13 is spoken", headers={"Sec-WebSocket-Version": "13"})
    key = headers.get("sec-websocket-key", "")
    try:
        decoded = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if len(decoded) != 16:
        raise Refusal(400, "Sec-WebSocket-Key must be 16 bytes in base64")
    return UpgradeRequest(
        path=path,
        query=_parameters(query),
        headers=headers,
        key=key.encode(),
        subprotocols=[
            name.strip() for name in headers.get("sec-websocket-protocol", "").split(",") if name.strip()
        ],
    )


def split_target(target: bytes) -> tuple[str, str]:
    """Path and query of a request target, also of one that is a whole URL (RFC 9112, section 3.2.2)."""
    text = target.decode("latin-1")
    if text[:7].lower() == "http://" or text[:8].lower() == "https://":
        path, _, query = text.partition("?")
        return "/" + path.split("/", 3)[3] if path.count("/") > 2 else "/", query
    path, _, query = text.partition("?")
    return path, query


def _parameters(query: str, *, errors: str = "replace") -> dict[str, list[str]]:
    try:
        return parse_qs(query, keep_blank_values=True, max_num_fields=_MAX_PARAMETERS, errors=errors)
    except UnicodeDecodeError:
        raise Refusal(400, "the query is not UTF-8") from None
    except ValueError:
        raise Refusal(400, f"the query is limited to {_MAX_PARAMETERS} parameters") from None


def _tokens(header: str) -> list[str]:
    return [token.strip().lower() for token in header.split(",")]


def accept_response(request: UpgradeRequest, subprotocol: str | None) -> bytes:
    """The 101 answer."""
    accept = base64.b64encode(hashlib.sha1(request.key + _GUID).digest())
    chosen = f"Sec-WebSocket-Protocol: {subprotocol}\r\n".encode() if subprotocol else b""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n" + chosen + b"\r\n"
    )


def refusal_response(refusal: Refusal) -> bytes:
    """A whole HTTP/1.1 answer with a problem document (RFC 9457), after which the connection closes."""
    code = ErrorCode(refusal.code) if refusal.code else code_for_status(refusal.status)
    body = problem_bytes(
        problem_document(code, refusal.detail, status=refusal.status, retry_after=refusal.retry_after)
    )
    headers = {
        "Content-Type": CONTENT_TYPE,
        "Content-Length": str(len(body)),
        "Connection": "close",
        "Cache-Control": "no-store",
        **refusal.headers,
    }
    if refusal.retry_after is not None:
        headers["Retry-After"] = retry_after_header(refusal.retry_after)
    if refusal.status == 401:
        headers.setdefault("WWW-Authenticate", "Bearer")
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    title = HTTPStatus(refusal.status).phrase
    return f"HTTP/1.1 {refusal.status} {title}\r\n{lines}\r\n".encode("latin-1") + body
