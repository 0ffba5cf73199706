"""Who answers a call: a Python handler registered under its name, or a backend whose pattern it matches."""

from __future__ import annotations

import contextlib
import inspect
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from gateway.calls.backend import Backend, CallerInfo, Request
from gateway.calls.caller import Caller
from gateway.config.settings import CallSettings
from protocol.data import read
from protocol.errors import ErrorCode, ProtocolError
from protocol.patterns import EventFilter
from protocol.values import check_value

__all__ = ["CallHandler", "Calls", "arguments_of"]

log = structlog.get_logger(__name__)

CallHandler = Callable[[Caller, Any], Awaitable[Any]]
"""Takes who calls and the call's data; returns the reply's data; may raise ``ProtocolError``."""

_CALL: Final = 1024
"""Bytes that a call under way takes beside its message."""
_NO_VALUES: Final = (bytes, bytearray, memoryview)
"""What msgspec would turn into base64; ``check_value`` refuses it instead."""


@dataclass(frozen=True, slots=True)
class _Registered:
    handler: CallHandler
    roles: frozenset[str]
    arguments: Any


class Calls:
    """Handlers by name, then backends by pattern. Register handlers before the gateway runs."""

    def __init__(
        self, settings: Mapping[str, CallSettings] | None = None, *, max_bytes: int = 64 * 2**20
    ) -> None:
        """Messages of calls under way may take ``max_bytes``, those of one organisation a quarter of it."""
        self._handlers: dict[str, _Registered] = {}
        self._max_bytes = max_bytes
        self._held: Counter[str] = Counter()
        self.active = 0
        """Calls under way."""
        self.held = 0
        """Bytes that they take."""
        self.backends = [Backend(pattern, each) for pattern, each in (settings or {}).items()]
        self._filters = [(EventFilter.of([backend.pattern]), backend) for backend in self.backends]

    def register(
        self, name: str, handler: CallHandler, *, roles: Iterable[str] = (), arguments: Any = None
    ) -> None:
        """Have ``handler`` answer calls of ``name``; a second one under the same name is a ValueError.

        With ``roles`` only callers who have one of them may call. ``arguments`` is a type that msgspec can
        convert the call's data to (a ``Struct``, a dataclass); without it the handler gets the data as it is.
        A type that msgspec cannot convert to is a TypeError.
        """
        if name in self._handlers:
            raise ValueError(f"a handler for {name!r} is already registered")
        if arguments is not None:
            msgspec.inspect.type_info(arguments)
        self._handlers[name] = _Registered(handler, frozenset(roles), arguments)

    @contextlib.contextmanager
    def hold(self, org: str, size: int) -> Iterator[None]:
        """Count a call under way, whose message has ``size`` bytes; raises OVERLOADED at the bound."""
        size += _CALL
        if self.held + size > self._max_bytes or self._held[org] + size > self._max_bytes // 4:
            raise ProtocolError(ErrorCode.OVERLOADED, "too many calls are pending", retry_after=1.0)
        self.active += 1
        self.held += size
        self._held[org] += size
        try:
            yield
        finally:
            self.active -= 1
            self.held -= size
            self._held[org] -= size
            if not self._held[org]:
                del self._held[org]

    async def invoke(self, name: str, data: Any, *, caller: Caller) -> Any:
        """Have the call answered and return the reply's data; ``name`` was checked.

        Raises ``ProtocolError``: UNKNOWN_CALL, FORBIDDEN, BAD_FIELD and MISSING_FIELD for arguments that do
        not fit, what the handler or the backend refuses with, and INTERNAL when it fails.
        """
        registered = self._handlers.get(name)
        if registered is not None:
            return await self._handle(name, registered, data, caller)
        for events, backend in self._filters:
            if events.allows(name):
                _check_roles(frozenset(backend.settings.roles), caller)
                info = CallerInfo(caller.org, caller.user, caller.connection, sorted(caller.roles))
                return await backend.invoke(Request(name, f"msg_{secrets.token_hex(12)}", data, info))
        raise ProtocolError(ErrorCode.UNKNOWN_CALL, "event: no handler is registered for this call")

    async def _handle(self, name: str, registered: _Registered, data: Any, caller: Caller) -> Any:
        _check_roles(registered.roles, caller)
        if registered.arguments is not None:
            data = read(data, registered.arguments)
        try:
            result = await registered.handler(caller, data)
        except ProtocolError:
            raise
        except Exception:
            log.exception("call handler failed", call=name)
            raise ProtocolError(ErrorCode.INTERNAL, "the call handler failed") from None
        try:
            return check_value(msgspec.to_builtins(result, builtin_types=_NO_VALUES))
        except (TypeError, ValueError, RecursionError, ProtocolError) as error:
            log.error("call handler returned a value that cannot be sent", call=name, reason=str(error))
            raise ProtocolError(ErrorCode.INTERNAL, "the call handler failed") from None

    async def aclose(self) -> None:
        """Close the connections to all backends."""
        for backend in self.backends:
            await backend.aclose()


def arguments_of(handler: CallHandler) -> Any:
    """The type that a handler gives its second parameter; None for none, ``object`` and ``Any``.

    Raises ``TypeError`` for a handler without two parameters, and for a type whose name cannot be resolved
    (of a class defined inside a function, in a module with postponed annotations).
    """
    parameters = list(inspect.signature(handler).parameters.values())
    if len(parameters) != 2:
        raise TypeError("a call handler takes two parameters: the caller and the data")
    kind = parameters[1].annotation
    if isinstance(kind, str):
        try:
            parameters = list(inspect.signature(handler, eval_str=True).parameters.values())
        except NameError as error:
            raise TypeError(
                f"the annotation of the data cannot be resolved ({error}): give arguments="
            ) from None
        kind = parameters[1].annotation
    return None if kind in (inspect.Parameter.empty, Any, object, None) else kind


def _check_roles(roles: frozenset[str], caller: Caller) -> None:
    if roles and roles.isdisjoint(caller.roles):
        raise ProtocolError(ErrorCode.FORBIDDEN, "this token may not make this call")
