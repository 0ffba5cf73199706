"""Handlers of ``call``: commands from a client to the backend, with a reply."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from gateway.hub.connection import Connection
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["CallHandler", "Calls"]

CallHandler = Callable[[Connection, Any], Awaitable[Any]]
"""Takes the calling connection and the call's data; returns the reply's data; may raise ProtocolError."""


class Calls:
    """Handlers by name. Register them before the gateway runs."""

    def __init__(self) -> None:
        self._handlers: dict[str, CallHandler] = {}

    def register(self, name: str, handler: CallHandler) -> None:
        """Have ``handler`` answer calls of ``name``; a second one under the same name is a ValueError."""
        if name in self._handlers:
            raise ValueError(f"a handler for {name!r} is already registered")
        self._handlers[name] = handler

    def find(self, name: str) -> CallHandler:
        """The handler; raises UNKNOWN_CALL."""
        handler = self._handlers.get(name)
        if handler is None:
            raise ProtocolError(ErrorCode.UNKNOWN_CALL, "event: no handler is registered for this call")
        return handler
