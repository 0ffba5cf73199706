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

__all__ = [
    "Caller",
    "ErrorCode",
    "Gateway",
    "ProtocolError",
    "Settings",
    "SettingsError",
    "__version__",
    "open_gateway",
]

_HOMES: Final = {
    "Caller": "gateway.calls.caller",
    "ErrorCode": "protocol.errors",
    "Gateway": "gateway.app",
    "ProtocolError": "protocol.errors",
    "Settings": "gateway.config.settings",
    "SettingsError": "gateway.config.settings",
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
