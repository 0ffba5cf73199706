"""Public keys from a JSON Web Key Set (RFC 7517), fetched, cached and rotated.

One fetch at a time, shared by everyone who needs it, and never more often than the
settings allow: tokens come from strangers, and a stranger can name any ``kid``. While the
server is down the keys that it gave last go on working.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import httpx
import msgspec
import structlog
import trio
from jwt.algorithms import Algorithm, get_default_algorithms
from jwt.exceptions import PyJWTError

from gateway.auth.keys import fits
from gateway.config.settings import AuthSettings, SettingsError
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["KeySet"]

MAX_BODY: Final = 256 * 1024
"""Bytes; 64 RSA keys with certificate chains fit."""
MAX_KID: Final = 256
FIRST_RETRY: Final = 1.0
"""Seconds between attempts while the server could not be asked."""

# Uncompressed, or a small answer could unpack into a huge one before its size is known.
_HEADERS: Final = {"accept": "application/json", "accept-encoding": "identity"}

log = structlog.get_logger("gateway.auth.jwks")


class _Document(msgspec.Struct):
    keys: list[dict[str, Any]]


class _Unusable(Exception):
    """The server's answer is no key set."""


class KeySet:
    """The keys behind ``jwks_url`` for the configured algorithm.

    ``clock`` gives seconds that never go back.
    """

    def __init__(self, settings: AuthSettings, clock: Callable[[], float] = trio.current_time) -> None:
        if not settings.jwks_url.startswith(("http://", "https://")):
            raise SettingsError("auth.jwks_url must begin with http:// or https://")
        self._settings = settings
        self._clock = clock
        self._algorithm: Algorithm = get_default_algorithms()[settings.algorithm]
        # Made once: reading the system's certificates blocks for tens of milliseconds.
        self._tls = httpx.create_ssl_context() if settings.jwks_url.startswith("https://") else False
        self._keys: dict[str | None, Any] = {}
        self._lock = trio.Lock()
        self._fetched: float | None = None
        self._attempted: float | None = None
        self._failure: str | None = None

    async def key(self, kid: str | None) -> Any:
        """The key named ``kid``; without ``kid``, the only key of the set.

        Fetches first when there are no keys yet, when they are older than
        ``jwks_cache`` or when ``kid`` is unknown. Raises ``ProtocolError``: UNAUTHENTICATED for a key
        that the server does not have, TIMEOUT with ``retry_after`` while it cannot be asked.
        """
        asked = self._clock()
        if kid is not None and len(kid) > MAX_KID:
            raise ProtocolError(ErrorCode.UNAUTHENTICATED, "the token names an unknown key (kid)")
        key = self._find(kid)
        if key is not None and (self._is_fresh() or self._lock.locked()):
            return key  # an old key does while someone else fetches
        # A token without kid that several keys could fit is hopeless; fetching again would not help it.
        hopeless = kid is None and self._is_fresh()
        if not hopeless and (self._may_fetch() or (key is None and self._lock.locked())):
            await self._refresh()
            key = self._find(kid)
        if key is not None:
            return key
        if not hopeless and (self._fetched is None or self._fetched < asked):
            # Nobody could look since the token came: its key may be newer than the set that is known.
            raise ProtocolError(
                ErrorCode.TIMEOUT,
                "the keys that verify tokens cannot be fetched now",
                retry_after=max(self._pause_left(), 0.1),
            )
        if kid is None:
            raise ProtocolError(ErrorCode.UNAUTHENTICATED, "the token names no key (kid)")
        raise ProtocolError(ErrorCode.UNAUTHENTICATED, "the token names an unknown key (kid)")

    async def fetch(self) -> int:
        """Fetch now; the number of usable keys. Raises ``ProtocolError`` TIMEOUT with the reason."""
        await self._refresh()
        if self._failure is not None:
            raise ProtocolError(ErrorCode.TIMEOUT, self._failure)
        return len(self._keys)

    def _find(self, kid: str | None) -> Any:
        if len(self._keys) == 1 and (kid is None or None in self._keys):
            return next(iter(self._keys.values()))  # an only key need not be named, on either side
        return self._keys.get(kid) if kid is not None else None

    def _is_fresh(self) -> bool:
        return self._fetched is not None and self._clock() - self._fetched < self._settings.jwks_cache

    def _may_fetch(self) -> bool:
        return self._pause_left() <= 0

    def _pause_left(self) -> float:
        """Seconds until the server may be asked again."""
        if self._attempted is None:
            return 0.0
        pause = self._settings.jwks_min_refresh
        if self._failure is not None or self._fetched is None:
            pause = min(pause, FIRST_RETRY)
        return self._attempted + pause - self._clock()

    async def _refresh(self) -> None:
        """Fetch once for all who wait here; a failure is logged and leaves the keys as they are."""
        async with self._lock:
            if not self._may_fetch():
                return  # another task fetched, or failed to, while this one waited
            # Counted from here, so that clients who go away while they wait cannot cause one fetch each.
            self._attempted = self._clock()
            try:
                with trio.fail_after(self._settings.jwks_timeout):
                    keys = self._read(await self._download())
            except trio.Cancelled:
                if self._fetched is None:
                    self._attempted = None  # the next of those who wait for the first keys goes on
                raise
            except (httpx.HTTPError, httpx.InvalidURL, trio.TooSlowError, _Unusable) as exc:
                # The type and not the text: an address may hold a password.
                self._failure = str(exc) if isinstance(exc, _Unusable) else type(exc).__name__
                log.warning("jwks fetch failed", reason=self._failure, keys=len(self._keys))
                self._attempted = self._clock()
                return
            self._keys = keys
            self._failure = None
            self._fetched = self._attempted = self._clock()
            log.info("jwks fetched", keys=len(keys))

    async def _download(self) -> bytes:
        body = bytearray()
        async with (
            httpx.AsyncClient(verify=self._tls, timeout=self._settings.jwks_timeout) as client,
            client.stream("GET", self._settings.jwks_url, headers=_HEADERS) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise _Unusable(f"the server answered {response.status_code}")
            with trio.CancelScope() as scope:
                async for chunk in response.aiter_raw(65536):
                    body += chunk
                    if len(body) > MAX_BODY:
                        # Leaving the loop would abandon httpx's generators half-way; this ends them in order.
                        scope.cancel()
        if len(body) > MAX_BODY:
            raise _Unusable(f"the answer is larger than {MAX_BODY} bytes")
        return bytes(body)

    def _read(self, body: bytes) -> dict[str | None, Any]:
        try:
            document = msgspec.json.decode(body, type=_Document)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise _Unusable("the answer is not a JSON Web Key Set") from None
        entries = document.keys
        if len(entries) > self._settings.jwks_max_keys:
            log.warning("jwks has too many keys", keys=len(entries), used=self._settings.jwks_max_keys)
            entries = entries[: self._settings.jwks_max_keys]
        keys: dict[str | None, Any] = {}
        for entry in entries:
            # Some write null for what they do not say.
            entry = {name: value for name, value in entry.items() if value is not None}
            kid = entry.get("kid")
            if kid is not None and (not isinstance(kid, str) or len(kid) > MAX_KID):
                continue
            key = self._usable(entry)
            if key is not None:
                keys.setdefault(kid, key)
        if not keys:
            raise _Unusable(f"the set holds no key for {self._settings.algorithm}")
        return keys

    def _usable(self, entry: dict[str, Any]) -> Any:
        """The public key in ``entry``; None for one of another algorithm or use, private, weak or damaged."""
        if (
            entry.get("use", "sig") != "sig"
            or entry.get("alg", self._settings.algorithm) != self._settings.algorithm
        ):
            return None
        try:
            key = self._algorithm.from_jwk(json.dumps(entry))
        except (PyJWTError, ValueError, TypeError, KeyError):
            return None
        return key if fits(self._settings.algorithm, key) else None
