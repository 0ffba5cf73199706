"""What a stranger with one member token can do to a node; each attack goes on until it is killed."""

from __future__ import annotations

import base64
import itertools
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress

__all__ = ["ATTACKS", "WebSocket"]

Attack = Callable[[int, str], None]
_NAP = 0.01
"""Seconds that an attack waits when it is refused: a flood of refusals is one of its own."""


class WebSocket:
    """A blocking WebSocket that speaks JSON or CBOR, as bytes."""

    def __init__(self, port: int, token: str, *, cbor: bool = False, receive_buffer: int = 0) -> None:
        """Raises OSError when the upgrade is refused."""
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(10)
        self.sock.connect(("127.0.0.1", port))
        self._opcode = 0x82 if cbor else 0x81
        key = base64.b64encode(os.urandom(16)).decode()
        self.sock.sendall(
            f"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nAuthorization: Bearer {token}\r\n"
            f"Sec-WebSocket-Protocol: trireme.v1.{'cbor' if cbor else 'json'}\r\n\r\n".encode()
        )
        self._unread = b""
        while b"\r\n\r\n" not in self._unread:
            self._unread += self._chunk()
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        if b" 101 " not in head[:20]:
            self.sock.close()
            raise ConnectionRefusedError(head[:20].decode())

    def send(self, *messages: bytes) -> None:
        """Send messages in one write."""
        self.sock.sendall(b"".join(map(self._frame, messages)))

    def _frame(self, payload: bytes) -> bytes:
        size = len(payload)
        if size < 126:
            head = struct.pack("!BB", self._opcode, 0x80 | size)
        elif size < 65536:
            head = struct.pack("!BBH", self._opcode, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", self._opcode, 0x80 | 127, size)
        return head + b"\0\0\0\0" + payload  # a mask of zeros leaves the payload as it is

    def _chunk(self) -> bytes:
        chunk = self.sock.recv(65536)
        if not chunk:
            raise ConnectionResetError
        return chunk

    def wait_for(self, text: bytes) -> None:
        """Read until ``text`` has come."""
        received, self._unread = self._unread, b""
        while text not in received:
            received = received[-len(text) :] + self._chunk()

    def drop(self) -> None:
        """Throw away what has come."""
        while select.select([self.sock], [], [], 0)[0]:
            self._chunk()


def _again(attack: Attack) -> Attack:
    """Begin again whenever the gateway ends it."""

    def run(port: int, token: str) -> None:
        while True:
            with suppress(OSError):
                attack(port, token)
            time.sleep(_NAP)

    return run


def _flood(template: str, *, batch: int = 200, cbor: bool = False, reads: bool = True) -> Attack:
    """One message again and again, ``%n`` being another number each time."""

    def run(port: int, token: str) -> None:
        client = WebSocket(port, token, cbor=cbor, receive_buffer=0 if reads else 4096)
        numbers = itertools.count(1)
        while True:
            client.send(*(template.replace("%n", str(next(numbers))).encode() for _ in range(batch)))
            if reads:
                client.drop()

    return _again(run)


def _command(kind: str, rest: str = "") -> str:
    return '{"v":1,"t":"' + kind + '","id":%n' + rest + "}"


def _nested_cbor(port: int, token: str) -> None:
    client = WebSocket(port, token, cbor=True)
    body = b"\xa3\x00\x01\x01\x07\x05\x99\xff\xff" + b"\xa0" * 65535
    while True:
        client.send(body)
        client.drop()


def _connects(port: int, token: str) -> None:
    while True:
        WebSocket(port, token).sock.close()


def _holds(port: int, token: str) -> None:
    held: list[WebSocket] = []
    with suppress(OSError):
        while len(held) < 2000:
            held.append(WebSocket(port, token))
    time.sleep(60)


def _silent(port: int, token: str) -> None:
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(500)]
    for sock in held:
        sock.sendall(b"GET /ws HTTP/1.1\r\nX: ")
    time.sleep(5)


def _request(method: str, path: str, token: str, body: bytes = b"") -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def _rest(method: str, path: str, body: bytes = b"", *, reads: bool = True) -> Attack:
    def run(port: int, token: str) -> None:
        sockets = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(16)]
        request = _request(method, path, token, body)
        while True:
            for sock in sockets:
                sock.sendall(request)
            for sock in sockets:
                if reads and not sock.recv(2**20):
                    return

    return _again(run)


def _bodies(port: int, token: str) -> None:
    sockets = [socket.create_connection(("127.0.0.1", port), timeout=1) for _ in range(100)]
    request = _request("POST", "/api/v1/broadcast", "none", b"x" * 10**6)[:-1]
    for sock in sockets:
        with suppress(OSError):
            sock.sendall(request)
    time.sleep(5)


def _slow_readers(port: int, token: str) -> None:
    readers = [WebSocket(port, token, receive_buffer=4096) for _ in range(50)]
    for reader in readers:
        reader.send(b'{"v":1,"t":"join","id":1,"room":"slow"}')
    writer = WebSocket(port, token)
    event = b'{"v":1,"t":"publish","id":1,"room":"slow","event":"e","data":"' + b"x" * 10**5 + b'"}'
    while True:
        writer.send(event)
        writer.drop()


_FILTER = ",".join(f'"{"*a" * 20}%n-{number}"' for number in range(60))

ATTACKS: dict[str, tuple[str, Attack]] = {
    "ping": ("pings without end", _flood(_command("ping"))),
    "stats": ("`stats` without end", _flood(_command("stats"))),
    "info": ("`info` without end", _flood(_command("info"))),
    "presence": ("`presence` without end", _flood(_command("presence", ',"room":"r"'))),
    "history": ("`history` without end", _flood(_command("history", ',"room":"r%n"'))),
    "joins": ("joins of ever new rooms", _flood(_command("join", ',"room":"r%n"'))),
    "publish": (
        "publishes to ever new rooms",
        _flood(_command("publish", ',"room":"r%n","event":"e","data":"' + "x" * 1000 + '"'), batch=50),
    ),
    "names": (
        "refused names of 1 MB",
        _flood(_command("leave", ',"room":"%n😀' + "a" * 900_000 + '"'), batch=1),
    ),
    "filters": (
        "filters of 60 patterns with 20 stars",
        _flood(_command("subscribe", ',"data":{"events":[' + _FILTER + "]}"), batch=5),
    ),
    "resumes": (
        "joins that resume",
        _flood(_command("join", ',"room":"r%n","data":{"since":{"epoch":"x","seq":1}}')),
    ),
    "typing": ("`typing` without end", _flood(_command("typing", ',"room":"r"'))),
    "unread": ("commands, and no answer is read", _flood(_command("stats"), reads=False)),
    "nested": ("CBOR of 65,535 maps in a message", _again(_nested_cbor)),
    "slow": ("50 readers of 100 kB events that read nothing", _again(_slow_readers)),
    "connects": ("connections that come and go", _again(_connects)),
    "holds": ("2,000 connections of one user", _again(_holds)),
    "silent": ("500 sockets with half a request", _again(_silent)),
    "bodies": ("100 bodies of 1 MB without a token", _again(_bodies)),
    "listing": ("`GET /connections`", _rest("GET", "/api/v1/connections?limit=1000")),
    "rest": (
        "REST bodies of 900 kB",
        _rest("POST", "/api/v1/broadcast", b'{"room":"r","event":"e","data":"' + b"x" * 900_000 + b'"}'),
    ),
}
"""Name → what it is, and what does it."""
