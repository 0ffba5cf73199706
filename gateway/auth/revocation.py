"""Tokens that are refused before they expire: by token id, by user, by organisation."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from gateway.auth.identity import Identity
from gateway.settings import AuthSettings
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["Revocations"]

_Key = tuple[str, str | None, str | None]
_NEVER = math.nan  # no time is before or equal to it, not even that of a token without `iat`


class Revocations:
    """A bounded table in this process's memory.

    An entry is dropped when every token that it can hit has expired: after
    ``max_token_ttl`` seconds, or later when a token that lives longer was seen.
    """

    def __init__(self, settings: AuthSettings, now: Callable[[], float] = time.time) -> None:
        self._max = settings.max_revocations
        self._longest = settings.max_token_ttl
        self._now = now
        self._entries: OrderedDict[_Key, float] = OrderedDict()  # → time of the revocation, oldest first

    def __len__(self) -> int:
        return len(self._entries)

    def revoke(self, *, jti: str | None = None, org: str | None = None, user: str | None = None) -> None:
        """Refuse from now on one token (``jti``; with ``org`` only if it is of that
        organisation), or every token issued until now for a user of ``org`` or the whole ``org``.

        A token without ``iat`` counts as issued before. Raises ``ProtocolError``:
        MISSING_FIELD when nothing is named, OVERLOADED when ``max_revocations`` are
        held already; dropping an old one instead would let a refused token in again.
        """
        if jti is not None:
            if user is not None:
                raise ProtocolError(ErrorCode.BAD_FIELD, "revoke either a jti or a user, not both")
            key: _Key = ("jti", org, jti)
        elif org is not None:
            key = ("org", org, None) if user is None else ("user", org, user)
        else:
            raise ProtocolError(
                ErrorCode.MISSING_FIELD, "name a jti, a user with its organisation, or an organisation"
            )
        self._prune()
        self._entries.pop(key, None)  # a second revocation is newer, so it goes to the end
        if len(self._entries) >= self._max:
            raise ProtocolError(ErrorCode.OVERLOADED, f"the limit of {self._max} revocations is reached")
        self._entries[key] = self._now()

    def is_revoked(self, identity: Identity) -> bool:
        """Tell whether a revocation hits ``identity``."""
        remaining = math.inf if identity.expires is None else identity.expires - self._now()
        self._longest = max(self._longest, remaining)
        entries = self._entries
        if not entries:
            return False
        org, jti = identity.org, identity.jti
        if jti is not None and (("jti", org, jti) in entries or ("jti", None, jti) in entries):
            return True
        issued = -math.inf if identity.issued_at is None else identity.issued_at
        if issued <= entries.get(("org", org, None), _NEVER):
            return True
        return identity.user is not None and issued <= entries.get(("user", org, identity.user), _NEVER)

    def _prune(self) -> None:
        horizon = self._now() - self._longest
        while self._entries:
            key, at = next(iter(self._entries.items()))
            if at > horizon:
                return
            del self._entries[key]
