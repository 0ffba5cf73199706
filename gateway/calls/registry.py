"""Who answers a call: a Python handler registered under its name, or a backend whose pattern it matches."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import msgspec
import structlog

from gateway.calls.backend import Backend, CallerInfo, Request
from gateway.config.settings import CallSettings
from protocol.errors import ErrorCode, ProtocolError
from protocol.patterns import EventFilter
from protocol.values import check_value

__all__ = ["CallHandler", "Calls"]

log = structlog.get_logger(__name__)

Caller = TypeVar("Caller")
CallHandler = Callable[[Caller, Any], Awaitable[Any]]
"""Takes who calls and the call's data; returns the reply's data; may raise ``ProtocolError``."""


@dataclass(frozen=True, slots=True)
class _Registered(Generic[Caller]):
    handler: CallHandler[Caller]
    roles: frozenset[str]
    arguments: Any


class Calls(Generic[Caller]):
    """Handlers by name, then backends by pattern. Register handlers before the gateway runs."""

    def __init__(self, settings: Mapping[str, CallSettings] | None = None) -> None:
        self._handlers: dict[str, _Registered[Caller]] = {}
        self.backends = [Backend(pattern, each) for pattern, each in (settings or {}).items()]
        self._filters = [(EventFilter.of([backend.pattern]), backend) for backend in self.backends]

    def register(
        self,
        name: str,
        handler: CallHandler[Caller],
        *,
        roles: Iterable[str] = (),
        arguments: Any = None,
    ) -> None:
        """Have ``handler`` answer calls of ``name``; a second one under the same name is a ValueError.

        With ``roles`` only callers who have one of them may call. ``arguments`` is a type that msgspec can
        convert the call's data to (a ``Struct``, a dataclass); without it the handler gets the data as it is.
        """
        if name in self._handlers:
            raise ValueError(f"a handler for {name!r} is already registered")
        self._handlers[name] = _Registered(handler, frozenset(roles), arguments)

    async def invoke(self, name: str, data: Any, *, caller: Caller, info: CallerInfo) -> Any:
        """Have the call answered and return the reply's data; ``name`` was checked.

        Raises ``ProtocolError``: UNKNOWN_CALL, FORBIDDEN, BAD_FIELD and MISSING_FIELD for arguments that do
        not fit, what the handler or the backend refuses with, and INTERNAL when it fails.
        """
        registered = self._handlers.get(name)
        if registered is not None:
            return await self._handle(name, registered, data, caller, info)
        for events, backend in self._filters:
            if events.allows(name):
                _check_roles(frozenset(backend.settings.roles), info)
                return await backend.invoke(Request(name, f"msg_{secrets.token_hex(12)}", data, info))
        raise ProtocolError(ErrorCode.UNKNOWN_CALL, "event: nothing answers this call")

    async def _handle(
        self, name: str, registered: _Registered[Caller], data: Any, caller: Caller, info: CallerInfo
    ) -> Any:
        _check_roles(registered.roles, info)
        if registered.arguments is not None:
            data = _arguments(data, registered.arguments)
        try:
            result = await registered.handler(caller, data)
        except ProtocolError:
            raise
        except Exception:
            log.exception("a call's handler failed", call=name)
            raise ProtocolError(ErrorCode.INTERNAL, "the handler of this call failed") from None
        try:
            return check_value(msgspec.to_builtins(result))
        except (TypeError, ProtocolError) as error:
            log.error("a call's handler returned what cannot be sent", call=name, reason=str(error))
            raise ProtocolError(ErrorCode.INTERNAL, "the handler of this call failed") from None

    async def aclose(self) -> None:
        """Close the connections to all backends."""
        for backend in self.backends:
            await backend.aclose()


def _check_roles(roles: frozenset[str], info: CallerInfo) -> None:
    if roles and roles.isdisjoint(info.roles):
        raise ProtocolError(ErrorCode.FORBIDDEN, "this token may not make this call")


_is_missing: Final = re.compile("Object missing required field `(.+)`").fullmatch


def _arguments(data: Any, kind: Any) -> Any:
    try:
        return msgspec.convert({} if data is None else data, kind)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        place = "data" + path.rstrip("`")
        missing = _is_missing(reason)
        if missing:
            raise ProtocolError(ErrorCode.MISSING_FIELD, f"{place}.{missing[1]}: is missing") from None
        raise ProtocolError(ErrorCode.BAD_FIELD, f"{place}: {reason[0].lower()}{reason[1:]}") from None
