"""Reading what the gateway said in one session: HTTP answers, then perhaps a WebSocket's frames."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Final

from gateway.problems import CONTENT_TYPE
from protocol.cbor import CBOR
from protocol.envelope import SERVER_KINDS, Envelope
from protocol.errors import CloseCode, ErrorCode
from protocol.json import JSON
from tests.framing import BINARY, CLOSE, PING, PONG, TEXT, take_frame

__all__ = ["Transcript", "Violation", "read_transcript"]


class Violation(Exception):
    """The gateway broke its promise in one session."""


@dataclass
class Transcript:
    """What was said, read and found valid."""

    statuses: list[int] = field(default_factory=list)
    upgraded: bool = False
    messages: list[Envelope] = field(default_factory=list)
    close: int | None = None
    """Of the Close frame; 1005 for an empty one, None when none came."""
    whole: bool = True
    """It does not end in the middle of something."""

    @property
    def outcome(self) -> str:
        """One word for the count."""
        if self.close is not None:
            return f"close {self.close}"
        if self.upgraded:
            return "upgraded, then gone"
        return f"HTTP {self.statuses[-1]}" if self.statuses else "nothing"


_STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [^\r\n]*\Z")
_HEADER: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[ \t]*[\t -~\x80-\xff]*\Z")
_ERRORS: Final = {int(code) for code in ErrorCode}


def read_transcript(data: bytes, *, heads_only: bool) -> Transcript:
    """Read and check; raises :class:`Violation`. ``heads_only``: some requests may have been of HEAD."""
    found = Transcript()
    while data:
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            found.whole = False
            return found
        status, headers = _read_head(head)
        found.statuses.append(status)
        if status == 101:
            found.upgraded = True
            codec = CBOR if headers.get("sec-websocket-protocol") == CBOR.subprotocol else JSON
            _read_frames(rest, codec, found)
            return found
        if status < 200 or status in {204, 304}:
            data = rest
            continue
        bodiless = heads_only and (not rest or _STATUS_LINE.match(rest.partition(b"\r\n")[0]))
        body, data = (b"", rest) if bodiless else _read_body(headers, rest, found)
        if status >= 400 and found.whole and not bodiless:
            _check_problem(status, headers, body)
    return found


def _read_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.split(b"\r\n")
    line = _STATUS_LINE.match(first)
    if line is None:
        raise Violation(f"no status line: {first[:80]!r}")
    headers = {}
    for each in lines:
        if not _HEADER.match(each):
            raise Violation(f"no header: {each[:80]!r}")
        name, _, value = each.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    return int(line[1]), headers


def _read_body(headers: dict[str, str], data: bytes, found: Transcript) -> tuple[bytes, bytes]:
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while True:
            line, end, rest = data.partition(b"\r\n")
            if not end:
                break
            size = int(line, 16)
            if len(rest) < size + 2:
                break
            body += rest[:size]
            data = rest[size + 2 :]
            if not size:
                return body, data
    elif "content-length" in headers:
        size = int(headers["content-length"])
        if len(data) >= size:
            return data[:size], data[size:]
    else:
        raise Violation(f"a body without a length: {headers}")
    found.whole = False
    return b"", b""


def _check_problem(status: int, headers: dict[str, str], body: bytes) -> None:
    if headers.get("content-type") != CONTENT_TYPE:
        raise Violation(f"{status} without a problem document: {headers}")
    document = json.loads(body)
    if document["status"] != status or document["code"] not in _ERRORS:
        raise Violation(f"{status} with {document}")
    if status == 500 or document["code"] == ErrorCode.INTERNAL:
        raise Violation(f"the gateway failed: {document}")


def _read_frames(data: bytes, codec: object, found: Transcript) -> None:
    assert codec is CBOR or codec is JSON
    while data:
        try:
            taken = take_frame(data)
        except AssertionError as error:
            raise Violation(f"no frame: {error}") from None
        if taken is None:
            found.whole = False
            return
        frame, data = taken
        if found.close is not None:
            raise Violation(f"a frame behind the Close: {frame}")
        if frame.opcode in {TEXT, BINARY}:
            if not frame.fin or (frame.opcode == BINARY) != codec.binary:
                raise Violation(f"a data frame of the wrong sort: {frame}")
            _take_message(codec.decode(frame.payload), found)
        elif frame.opcode == CLOSE:
            found.close = frame.code if frame.payload else 1005
            if frame.code == CloseCode.INTERNAL_ERROR:
                raise Violation("closed with 1011")
            frame.payload[2:].decode()
        elif frame.opcode not in {PING, PONG}:
            raise Violation(f"a frame of the wrong sort: {frame}")


def _take_message(message: Envelope, found: Transcript) -> None:
    if message.t not in SERVER_KINDS:
        raise Violation(f"a message that no server sends: {message}")
    if message.t == "error" and (message.code not in _ERRORS or message.code == ErrorCode.INTERNAL):
        raise Violation(f"an error without its number, or an internal one: {message}")
    if message.t == "closing" and not message.code:
        raise Violation(f"closing without a number: {message}")
    if not found.messages and message.t not in {"connected", "closing", "error"}:
        raise Violation(f"the first message is {message}")
    found.messages.append(message)
