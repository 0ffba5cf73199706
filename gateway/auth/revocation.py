"""Tokens that are refused before they expire: by token id, by user, by organisation."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from gateway.auth.identity import Identity
from gateway.auth.issuers import IssuerClocks
from gateway.config.settings import AuthSettings
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["MAX_JTI", "MAX_ORG", "MAX_USER", "Revocations"]

MAX_ORG: Final = 64
MAX_USER: Final = 200
MAX_JTI: Final = 200
"""Characters of what a token may name."""

_Key = tuple[str, str | None, str | None]
_NEVER = math.nan  # no time is before or equal to it, not even that of a token without `iat`


class Revocations:
    """A table in this process's memory, bounded for each organisation: none uses up what others need.

    An entry is dropped when every token that it can hit has expired: after
    ``max_token_ttl`` seconds, or later when a token that lives longer was seen.
    """

    def __init__(self, settings: AuthSettings, now: Callable[[], float] = time.time) -> None:
        self._max = settings.max_revocations
        self._longest = settings.max_token_ttl
        self._now = now
        self._entries: OrderedDict[_Key, float] = OrderedDict()  # → time of the revocation, oldest first
        self._held: dict[str | None, int] = {}
        """Organisation → its entries."""
        self._clocks = IssuerClocks(now)
        self.complete = True
        """False until what other nodes revoked is known: meanwhile nobody can say that a token is good."""

    def __len__(self) -> int:
        return len(self._entries)

    def revoke(self, *, jti: str | None = None, org: str | None = None, user: str | None = None) -> float:
        """Refuse from now on one token (``jti``; with ``org`` only if it is of that organisation) and what
        was refreshed from it, or every token issued until now for a user of ``org`` or the whole ``org``.

        Returns the time in seconds since 1970, by the clock of whoever issues tokens: those issued until then
        are refused. A token without ``iat`` counts as issued before. Raises ``ProtocolError``: MISSING_FIELD
        when nothing is named, BAD_FIELD for a name that no token can have, OVERLOADED when the organisation
        holds ``max_revocations`` already; dropping an old one instead would let a refused token in again.
        """
        for field, name, longest in (("jti", jti, MAX_JTI), ("user", user, MAX_USER), ("org", org, MAX_ORG)):
            if name is not None and len(name) > longest:
                raise ProtocolError(
                    ErrorCode.BAD_FIELD, f"{field}: must not be longer than {longest} characters"
                )
        key = _key(jti, org, user)
        self._prune()
        self._drop(key)  # a second revocation is newer, so it goes to the end
        if self._held.get(org, 0) >= self._max:
            raise ProtocolError(
                ErrorCode.OVERLOADED, f"this organisation's limit of {self._max} revocations is reached"
            )
        at = self._now() if jti is not None or org is None else self._clocks.cutoff(org)
        self._put(key, at)
        return at

    def cutoff(self, org: str) -> float:
        """The time that a revocation of ``org`` or a user of it gets now."""
        return self._clocks.cutoff(org)

    def settled(self, org: str, at: float) -> float:
        """Seconds until a token of ``org`` that is signed from then on is good although all up to ``at`` were
        revoked: ``iat`` has whole seconds, and the issuer's clock may differ. At most 2 s."""
        return self._clocks.wait(org, at)

    def _put(self, key: _Key, at: float) -> None:
        self._entries[key] = at
        self._held[key[1]] = self._held.get(key[1], 0) + 1

    def _drop(self, key: _Key) -> None:
        if self._entries.pop(key, None) is not None:
            left = self._held[key[1]] - 1
            if left:
                self._held[key[1]] = left
            else:
                del self._held[key[1]]

    def learn(self, *, jti: str | None, org: str | None, user: str | None, at: float) -> bool:
        """Take a revocation that was made elsewhere ``at`` this time; there it was checked and counted.

        Returns whether it was new.
        """
        key = _key(jti, org, user)
        if at <= self._entries.get(key, -math.inf):
            return False
        self._drop(key)
        self._put(key, at)
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
                ErrorCode.BROKER_UNAVAILABLE, "the revocations are not loaded yet", retry_after=1.0
            )
        remaining = math.inf if identity.expires is None else identity.expires - self._now()
        self._longest = max(self._longest, remaining)
        if identity.issued_at is not None:
            self._clocks.saw(identity.org, identity.issued_at)
        entries = self._entries
        if not entries:
            return False
        org, jti = identity.org, identity.jti
        if jti is not None and (("jti", org, jti) in entries or ("jti", None, jti) in entries):
            return True
        for ancestor in identity.family:
            if ("jti", org, ancestor) in entries or ("jti", None, ancestor) in entries:
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
            self._drop(key)


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
