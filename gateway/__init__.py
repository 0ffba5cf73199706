"""Trireme: a real-time gateway on Trio. What stands in ``__all__`` is the public API (docs/extending.md).

The names are imported when they are first used, so that ``gateway.client`` costs no more than itself.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from gateway.version import VERSION as __version__

if TYPE_CHECKING:
    from gateway.app import Gateway
    from gateway.calls.caller import Caller
    from gateway.config.settings import Settings, SettingsError
    from gateway.embedding import open_gateway
    from protocol.errors import ErrorCode, ProtocolError
    from protocol.registry import EventTypes
    from protocol.typed import TypedEvent

__all__ = [
    "Caller",
    "ErrorCode",
    "EventTypes",
    "Gateway",
    "ProtocolError",
    "Settings",
    "SettingsError",
    "TypedEvent",
    "__version__",
    "open_gateway",
]

_HOMES: Final = {
    "Caller": "gateway.calls.caller",
    "ErrorCode": "protocol.errors",
    "EventTypes": "protocol.registry",
    "Gateway": "gateway.app",
    "ProtocolError": "protocol.errors",
    "Settings": "gateway.config.settings",
    "SettingsError": "gateway.config.settings",
    "TypedEvent": "protocol.typed",
    "open_gateway": "gateway.embedding",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(home), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
