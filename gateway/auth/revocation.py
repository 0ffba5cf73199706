"""Tokens that are refused before they expire: by token id, by user, by organisation."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from gateway.auth.identity import Identity
from gateway.config.settings import AuthSettings
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
        self.complete = True
        """False until what other nodes revoked is known: meanwhile nobody can say that a token is good."""

    def __len__(self) -> int:
        return len(self._entries)

    def revoke(self, *, jti: str | None = None, org: str | None = None, user: str | None = None) -> None:
        """Refuse from now on one token (``jti``; with ``org`` only if it is of that
        organisation), or every token issued until now for a user of ``org`` or the whole ``org``.

        A token without ``iat`` counts as issued before. Raises ``ProtocolError``:
        MISSING_FIELD when nothing is named, OVERLOADED when ``max_revocations`` are
        held already; dropping an old one instead would let a refused token in again.
        """
        key = _key(jti, org, user)
        self._prune()
        self._entries.pop(key, None)  # a second revocation is newer, so it goes to the end
        if len(self._entries) >= self._max:
            raise ProtocolError(ErrorCode.OVERLOADED, f"the limit of {self._max} revocations is reached")
        self._entries[key] = self._now()

    def learn(self, *, jti: str | None, org: str | None, user: str | None, at: float) -> bool:
        """Take a revocation that was made elsewhere ``at`` this time; there it was checked and counted.

        Returns whether it was new.
        """
        key = _key(jti, org, user)
        if at <= self._entries.get(key, -math.inf):
            return False
        self._entries.pop(key, None)
        self._entries[key] = at
        return True

    def entries(self) -> list[tuple[str | None, str | None, str | None, float]]:
        """What is revoked: organisation, jti, user and time, the oldest first."""
        self._prune()
        return [
            (org, name if kind == "jti" else None, name if kind == "user" else None, at)
            for (kind, org, name), at in self._entries.items()
        ]

    @property
    def longest(self) -> float:
        """The longest that a token of those seen may still live, in seconds."""
        return self._longest

    def is_revoked(self, identity: Identity) -> bool:
        """Tell whether a revocation hits ``identity``; raises BROKER_UNAVAILABLE while that is unknown."""
        if not self.complete:
            raise ProtocolError(
                ErrorCode.BROKER_UNAVAILABLE, "what was revoked is not known yet", retry_after=1.0
            )
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


def _key(jti: str | None, org: str | None, user: str | None) -> _Key:
    if jti is not None:
        if user is not None:
            raise ProtocolError(ErrorCode.BAD_FIELD, "revoke either a jti or a user, not both")
        return "jti", org, jti
    if org is None:
        raise ProtocolError(
            ErrorCode.MISSING_FIELD, "name a jti, a user with its organisation, or an organisation"
        )
    return ("org", org, None) if user is None else ("user", org, user)
