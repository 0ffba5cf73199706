"""Tokens that were verified before: a client that polls shows the same one again and again.

A token is known by its digest, under a key of this process, and is good for the key it was verified with.
What can have changed since (its end, a revocation) is for the caller to look at. Bounded in bytes: the token
that was not shown for the longest time goes first. A token that was shown once leaves its digest only: most
tokens open one WebSocket, and are not shown again.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from typing import Any, Final

from gateway.auth.identity import Identity

__all__ = ["Verified"]

_MAX_BYTES: Final = 8 << 20
"""Some ten thousand tokens."""
_MAX_ONCE: Final = 4096
"""Digests of tokens that were shown once."""
_ENTRY: Final = 600
"""Bytes of an identity and its entry, beside what its token says."""


class Verified:
    """What the tokens said that were verified lately."""

    __slots__ = ("_known", "_max_bytes", "_once", "_salt", "bytes")

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._salt = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, tuple[Identity, Any, int]] = OrderedDict()
        """Digest → who it speaks for, the key it was verified with, and what it counts."""
        self._once: OrderedDict[bytes, None] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def find(self, token: str, key: object) -> Identity | None:
        """Who ``token`` speaks for, if it was verified with this very ``key``."""
        digest = self._digest(token)
        known = self._known.get(digest)
        if known is None or known[1] is not key:
            return None
        self._known.move_to_end(digest)
        return known[0]

    def keep(self, token: str, key: object, identity: Identity) -> None:
        """``token`` was verified with ``key``; it is known from the second time on."""
        digest = self._digest(token)
        if digest not in self._known and digest not in self._once:
            self._once[digest] = None
            if len(self._once) > _MAX_ONCE:
                self._once.popitem(last=False)
            return
        self._once.pop(digest, None)
        size = len(token) + _ENTRY
        self.bytes += size - self._known.pop(digest, (identity, key, 0))[2]
        self._known[digest] = identity, key, size
        while self.bytes > self._max_bytes:
            self.bytes -= self._known.popitem(last=False)[1][2]

    def _digest(self, token: str) -> bytes:
        return hashlib.blake2b(token.encode(errors="surrogatepass"), digest_size=20, key=self._salt).digest()
