"""When a session has to do something by itself: no token came, the token ends, nothing was said for long."""

from __future__ import annotations

import math
import time
from enum import Enum, auto

import trio

from gateway.auth.identity import Identity
from gateway.config.settings import Settings

__all__ = ["Deadlines", "Due"]


class Due(Enum):
    """What has come."""

    AUTH = auto()
    """No token came in time."""
    NOTICE = auto()
    """The token is about to expire."""
    EXPIRED = auto()
    """The token has expired."""
    INACTIVE = auto()
    """No command came for ``connection.inactivity`` seconds."""


class Deadlines:
    """The times of one session; Trio's, in seconds, and infinite for never."""

    __slots__ = ("_expires", "_inactive", "_limit", "_must_auth", "_notice", "last_command", "watching")

    def __init__(self) -> None:
        self._must_auth = math.inf
        self._expires = math.inf
        self._notice = math.inf
        self._inactive = math.inf
        self._limit = 0.0
        self.watching = False
        """Activity is watched: whoever handles a command sets ``last_command``."""
        self.last_command = 0.0

    def nearest(self) -> float:
        """The first of them."""
        return min(self._must_auth, self._notice, self._expires, self._inactive)

    def require_auth(self, timeout: float) -> None:
        """A token must come within ``timeout`` seconds."""
        self._must_auth = trio.current_time() + timeout

    def admitted(self, inactivity: float) -> None:
        """The client is known; with ``inactivity`` it must send a command at least that often, in seconds."""
        self._must_auth = math.inf
        if inactivity:
            self.watching = True
            self._limit = inactivity
            self.last_command = trio.current_time()
            self._inactive = self.last_command + inactivity

    def set_expiry(self, identity: Identity, settings: Settings) -> None:
        """The connection ends when this identity's token does."""
        self._expires = self._notice = math.inf
        if identity.expires is not None:
            left = identity.expires - time.time()
            self._expires = trio.current_time() + left + settings.auth.leeway
            notice = settings.connection.expiry_notice
            if notice and left > notice:
                self._notice = trio.current_time() + left - notice

    def due(self, now: float) -> Due | None:
        """What has come by ``now``, once each."""
        if now >= self._must_auth:
            self._must_auth = math.inf
            return Due.AUTH
        if now >= self._notice:
            self._notice = math.inf
            return Due.NOTICE
        if now >= self._expires:
            self._expires = math.inf
            return Due.EXPIRED
        if now >= self._inactive:
            self._inactive = self.last_command + self._limit
            if now >= self._inactive:
                self._inactive = math.inf
                return Due.INACTIVE
        return None
