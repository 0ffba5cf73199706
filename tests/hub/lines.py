"""A hub alone, with members whose encoding no WebSocket knows: lines of text."""

from __future__ import annotations

import socket
from typing import Any

import msgspec

from gateway.auth.identity import Grants, Identity
from gateway.broker.base import Event
from gateway.broker.memory import MemoryBroker
from gateway.config.settings import Settings
from gateway.hub.connection import Connection
from gateway.hub.hub import Hub
from gateway.wire.engine import Engine
from gateway.wire.outbox import Outbox
from protocol.encoding import Encoding
from protocol.envelope import Envelope
from protocol.json import JSON

__all__ = ["Far", "Lines", "Node"]

Told = list[dict[str, Any]]


class Lines:
    """An envelope is a line of JSON, as a stream of server-sent events or a log would have it."""

    subprotocol = "lines"
    binary = False

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, envelope: Envelope) -> bytes:
        self.encoded.append(envelope.t)
        return JSON.encode(envelope) + b"\n"


class Far:
    """A client that is not behind a WebSocket, with the other end of its socket."""

    def __init__(self, outbox: Outbox, end: socket.socket) -> None:
        self.outbox = outbox
        self.end = end
        self.received_messages = self.received_bytes = 0
        self.caught_up = 0

    def close(self, code: int, reason: str, *, retry_after: float | None = None) -> None:
        self.outbox.shut()

    def give_way(self, token: str) -> bytes:
        return b""

    def catch_up(self) -> None:
        self.caught_up += 1

    def dropped(self, event: Event, policy: str) -> None: ...

    def is_typing(self, room: str) -> bool:
        return False

    def read(self) -> bytes:
        """What has come since the last time."""
        came = b""
        while True:
            try:
                came += self.end.recv(65536)
            except BlockingIOError:
                return came

    def lines(self) -> Told:
        return [msgspec.json.decode(line) for line in self.read().splitlines()]


class Node:
    """A hub with its broker and flusher, and nothing else."""

    def __init__(self) -> None:
        self.flusher = Engine().flusher
        self.hub = Hub(MemoryBroker(Settings().history), self.flusher, node="n")
        self.sockets: list[socket.socket] = []

    async def connect(self, user: str, encoding: Encoding) -> tuple[Far, Connection]:
        ours, theirs = socket.socketpair()
        self.sockets += ours, theirs
        for end in (ours, theirs):
            end.setblocking(False)
        far = Far(Outbox(self.flusher, ours, max_messages=100, max_bytes=1_000_000), theirs)
        identity = Identity("acme", user, frozenset(), Grants.ALL)
        connection = await self.hub.connect(identity=identity, encoding=encoding, peer=far, ip="here")
        return far, connection

    def flush(self) -> None:
        while self.flusher.active:
            self.flusher.flush()
