"""Origins of pages that browsers may connect from (RFC 6454)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

__all__ = ["Origins", "never_sent", "normalize_origin"]

_PORTS: Final = {"http": 80, "https": 443}
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*\Z")
_MAX_SHOWN: Final = 200
_PAUSE: Final = 1.0
"""Seconds between two lines in the log: anybody can send any number of origins."""


def normalize_origin(text: str) -> str:
    """``text`` as browsers send it: small letters, no path, no default port.

    Raises ValueError, with the reason, for what no browser sends.
    """
    if text == "null":
        return text
    if "*" in text:
        raise ValueError("wildcards are not supported; name each origin, or none to allow every one")
    parts = urlsplit(text)
    scheme = parts.scheme.lower()
    if "://" not in text or not _SCHEME.match(scheme) or not parts.hostname:
        raise ValueError("write an origin as scheme://host or scheme://host:port")
    if parts.path not in {"", "/"} or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("an origin has no path, query or user: write scheme://host or scheme://host:port")
    host = parts.hostname
    if not host.isascii():
        host = host.encode("idna").decode()  # a UnicodeError is a ValueError
    host = f"[{host}]" if ":" in host else host
    port = parts.port  # raises ValueError
    return f"{scheme}://{host}" + ("" if port in {None, _PORTS.get(scheme)} else f":{port}")


def never_sent(origin: str) -> str:
    """Why no browser sends this normalized origin; empty when one may."""
    scheme, _, host = origin.partition("://")
    if scheme in {"ws", "wss"}:
        page = "https" if scheme == "wss" else "http"
        return f"a page's origin is that of its own address: write {page}://{host}"
    if scheme == "file":
        return "pages from files send null"
    if host.endswith(".") or host.rpartition(":")[0].endswith("."):
        return "a host name does not end with a dot"
    return ""


class Origins:
    """The origins that are allowed, normalized ones; none allows every one."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(allowed)
        self._quiet_until = 0.0

    def allows(self, origin: str | None, now: float) -> bool:
        """Tell whether a page of ``origin`` may connect; None is no browser. Logs a refusal, one a second."""
        if not self._allowed or origin is None or origin in self._allowed:
            return True
        if now >= self._quiet_until:
            self._quiet_until = now + _PAUSE
            import structlog  # here, so that commands that only read settings start faster

            log = structlog.get_logger(__name__)
            log.warning("refused an origin that is not in allowed_origins", origin=origin[:_MAX_SHOWN])
        return False
