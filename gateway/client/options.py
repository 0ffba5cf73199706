"""What a client was told when it was made."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import anyio.abc

from gateway.client.backoff import Backoff
from gateway.client.course import TransportKind
from gateway.client.errors import ReconnectFailed
from gateway.client.rooms import Rooms
from gateway.client.transport import Address, Sockets, Transport
from protocol.codec import Codec

__all__ = ["Options", "Token"]

OpenHttp = Callable[[anyio.abc.TaskGroup, TransportKind, Mapping[str, str], Rooms], Transport]
"""Begins a connection made of HTTP requests, whose first message is ``connected``."""

Token = str | Callable[[], Awaitable[str]] | None
"""A token, or how to get one: asked before every connection, and before the token of an open one expires."""

_SECONDS: Final = (
    "connect_timeout",
    "command_timeout",
    "close_timeout",
    "heartbeat",
    "heartbeat_timeout",
    "websocket_retry",
)
_COUNTS: Final = ("max_pending", "max_message_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The parameters of :func:`gateway.client.connect`, which explains them. Raises ValueError."""

    address: Address
    sockets: Sockets
    open_http: OpenHttp
    kinds: tuple[TransportKind, ...]
    websocket_retry: float
    codec: Codec
    headers: Mapping[str, str]
    reconnect: Backoff | None
    reconnect_failed: Callable[[ReconnectFailed], object] | None
    retry_first: bool
    connect_timeout: float
    command_timeout: float
    close_timeout: float
    heartbeat: float
    heartbeat_timeout: float
    buffer: int
    max_pending: int
    max_message_bytes: int
    window: int

    def __post_init__(self) -> None:
        for name in _SECONDS:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a positive number of seconds")
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.buffer < 0 or self.window < 0:
            raise ValueError("buffer and window must not be negative")
