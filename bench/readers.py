"""Many readers of one kind on one core: WebSockets, event streams or polls, and one WebSocket that publishes.

The load generator in C speaks WebSocket only. This one does little else than ``recv``, for each kind alike,
so that what the server takes for one can be compared with what it takes for another. Commands are lines:
``open KIND COUNT`` connects readers of a room, ``publish IN_FLIGHT SECONDS`` publishes to it, ``begin KIND
COUNT SECONDS`` has clients poll for the first time (KIND: over connections that are ``kept``, or a ``fresh``
one each time), and ``poll SECONDS`` has them poll on for so long, in vain. All answer with a line of JSON.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import resource
import select
import socket
import struct
import sys
import time
from pathlib import Path

ROOM = "bench-0"
_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_PAD = "x" * 40
_MARK = b'"event":"tick"'
_PATIENCE = 30.0
_AT_ONCE = 64
_NEAREST = 0.01
_FARTHEST = 0.1
"""Seconds from an answer to the next request."""


class Readers:
    """All connections of this process."""

    def __init__(self, port: int, tokens: Path) -> None:
        self._port = port
        self._tokens = tokens.read_text().split()
        self._poll = select.epoll()
        self._socks: dict[int, socket.socket] = {}
        self._publisher: socket.socket | None = None
        self.got = 0
        """Events, of all readers."""
        self._heads: list[str] = []
        self._clients: dict[int, socket.socket] = {}
        self._numbers: dict[int, int] = {}
        self._due: list[tuple[float, int]] = []
        """When which client asks."""
        self._fresh = False
        self.answered = 0
        self.opened = 0

    def _dial(self, head: str) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self._port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(head.encode())
        return sock

    def _websocket(self, number: int) -> socket.socket:
        return self._dial(
            f"GET /ws?token={self._tokens[number]} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {_KEY}\r\n\r\n"
        )

    def _get(self, number: int, path: str) -> socket.socket:
        token = self._tokens[number]
        return self._dial(f"GET /api/v1/{path}join={ROOM}&token={token} HTTP/1.1\r\nHost: x\r\n\r\n")

    def open(self, kind: str, count: int) -> None:
        """Connect so many more readers; returns when all are in the room."""
        first = len(self._socks)
        waiting: list[socket.socket] = []
        for number in range(first, first + count):
            if kind == "websocket":
                sock = self._websocket(number)
                _until(sock, b'"t":"connected"')
                sock.sendall(_frame({"v": 1, "t": "join", "id": 1, "room": ROOM}))
            else:
                sock = self._get(number, "stream?")
            waiting.append(sock)
            if len(waiting) == _AT_ONCE or number == first + count - 1:
                for each in waiting:
                    _until(each, b'"t":"reply"')
                    self._add(each)
                waiting.clear()

    def _add(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socks[sock.fileno()] = sock
        self._poll.register(sock, select.EPOLLIN)

    def publish(self, in_flight: int, seconds: float) -> dict[str, float]:
        """Publish for so long; an event is in flight until all have it."""
        if self._publisher is None:
            self._publisher = self._websocket(len(self._tokens) - 1)
            _until(self._publisher, b'"t":"connected"')
        readers = len(self._socks)
        start, begun, sent = self.got, time.monotonic(), 0
        while (now := time.monotonic()) < begun + seconds or self.got - start < sent * readers:
            if now > begun + seconds + _PATIENCE:
                raise SystemExit("events did not arrive")
            if now < begun + seconds:
                batch = b""
                while sent - (self.got - start) // readers < in_flight:
                    data = {"n": sent, "pad": _PAD}
                    batch += _frame({"v": 1, "t": "publish", "room": ROOM, "event": "tick", "data": data})
                    sent += 1
                if batch:
                    self._publisher.sendall(batch)
            self._read(1.0)
        return {"seconds": time.monotonic() - begun, "deliveries": float(self.got - start)}

    def begin(self, kind: str, count: int, seconds: float) -> None:
        """The first poll of so many clients, which is answered at once; the second ones are begun one after
        the other over ``seconds``, which is how long each waits."""
        self._fresh = kind == "fresh"
        close = "Connection: close\r\n" if self._fresh else ""
        begun = time.monotonic() + 1.0
        for number in range(count):
            with self._get(number, "poll?timeout=0&") as sock:
                cursor = _until(sock, b'"cursor":"').split(b'"cursor":"')[1].split(b'"')[0].decode()
            target = (
                f"/api/v1/poll?join={ROOM}&timeout={seconds}&cursor={cursor}&token={self._tokens[number]}"
            )
            self._heads.append(f"GET {target} HTTP/1.1\r\nHost: x\r\n{close}\r\n")
            self._due.append((begun + seconds * number / count, number))
        heapq.heapify(self._due)

    def poll(self, seconds: float) -> dict[str, float]:
        """Have the clients poll on for so long: each asks again when the network has had its time."""
        begun = time.monotonic()
        answered, opened = self.answered, self.opened
        while (now := time.monotonic()) < begun + seconds:
            while self._due and self._due[0][0] <= now:
                self._ask(heapq.heappop(self._due)[1])
            self._answers(max(0.0, min(begun + seconds, *(due for due, _ in self._due[:1]), now + 1.0) - now))
        return {"polls": float(self.answered - answered), "connections": float(self.opened - opened)}

    def _ask(self, number: int) -> None:
        sock = self._clients.get(number)
        if sock is not None:
            sock.sendall(self._heads[number].encode())
            return
        self.opened += 1
        sock = self._clients[number] = self._dial(self._heads[number])
        sock.setblocking(False)
        self._numbers[sock.fileno()] = number
        self._poll.register(sock, select.EPOLLIN)

    def _answers(self, timeout: float) -> None:
        for fd, _ in self._poll.poll(timeout, 1024):
            number = self._numbers[fd]
            data = self._clients[number].recv(65536)
            if data:
                if b'{"messages":[],' not in data:
                    raise SystemExit(f"this is no answer in vain: {data!r}")
                self.answered += 1
                if not self._fresh:
                    self._again(number)
                continue
            if not self._fresh:
                raise SystemExit("the server closed a connection")
            self._poll.unregister(fd)
            del self._numbers[fd]
            self._clients.pop(number).close()
            self._again(number)

    def _again(self, number: int) -> None:
        # No two clients are equally far away: what is answered together is not asked again together.
        heapq.heappush(
            self._due, (time.monotonic() + _NEAREST + _FARTHEST * (number * 37 % 101) / 101, number)
        )

    def _read(self, timeout: float) -> None:
        for number, _ in self._poll.poll(timeout, 1024):
            data = self._socks[number].recv(1 << 18)
            self.got += data.count(_MARK)
            if not data:
                self._poll.unregister(number)
                self._socks.pop(number).close()


def _frame(message: object) -> bytes:
    payload = json.dumps(message).encode()
    head = struct.pack("!BB", 0x81, 0x80 | len(payload)) if len(payload) <= 125 else b"\x81\xfe"
    return head + (struct.pack("!H", len(payload)) if len(payload) > 125 else b"") + bytes(4) + payload


def _until(sock: socket.socket, mark: bytes) -> bytes:
    sock.settimeout(_PATIENCE)
    data = b""
    while mark not in data:
        chunk = sock.recv(65536)
        if not chunk:
            raise SystemExit(f"the server closed: {data[-300:]!r}")
        data += chunk
    return data


def main() -> None:
    """Serve commands until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tokens", type=Path, required=True)
    chosen = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    readers = Readers(chosen.port, chosen.tokens)
    for line in sys.stdin:
        name, *words = line.split()
        before = sum(os.times()[:2])
        found: dict[str, float] = {}
        if name == "open":
            readers.open(words[0], int(words[1]))
        elif name == "publish":
            found = readers.publish(int(words[0]), float(words[1]))
        elif name == "begin":
            readers.begin(words[0], int(words[1]), float(words[2]))
        else:
            found = readers.poll(float(words[0]))
        print(json.dumps({"cpu": sum(os.times()[:2]) - before, **found}), flush=True)


if __name__ == "__main__":
    main()
