"""Verifying and issuing tokens (JWT, RFC 7519)."""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec
from jwt.exceptions import InvalidAlgorithmError, InvalidSignatureError, PyJWTError

from gateway.auth.clock import running_time
from gateway.auth.identity import Grants, Identity, Permission
from gateway.auth.keys import checker, load_keys
from gateway.auth.revocation import MAX_JTI, MAX_ORG, MAX_USER, Revocations
from gateway.auth.tickets import Tickets
from gateway.auth.verified import Verified
from gateway.config.settings import AuthSettings, SettingsError
from protocol.envelope import MAX_ROOM_BYTES
from protocol.errors import ErrorCode, ProtocolError
from protocol.names import check_pattern
from protocol.values import check_value

if TYPE_CHECKING:
    from gateway.auth.jwks import KeySet

__all__ = ["MAX_ROLE", "MAX_ROLES", "MAX_TOKEN", "Authenticator", "IssuedToken"]

MAX_TOKEN: Final = 16384
"""Characters."""
MAX_META: Final = 1024
"""Bytes of the claim ``meta``, as JSON."""
MAX_FAMILY: Final = 16
"""Ancestors that a refreshed token names: the first, and the latest."""
MAX_PATTERNS: Final = 256
MAX_ROLES: Final = 32
MAX_ROLE: Final = 200
"""Characters."""
_END_OF_TIME: Final = (
    253402300799.0  # the last second of the year 9999; later ones are milliseconds by mistake
)
_UNCLEAN: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class Claims(msgspec.Struct, gc=False):
    """The claims that mean something here; others are ignored. Times are seconds since 1970 UTC."""

    org: str | None = None
    sub: str | None = None
    roles: list[str] = []
    rooms: dict[str, list[str]] | None = None
    exp: float | None = None
    nbf: float | None = None
    iat: float | None = None
    jti: str | None = None
    family: list[str] = []
    aud: str | list[str] | None = None
    iss: str | None = None
    meta: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A fresh token; ``expires`` is in seconds since 1970 UTC."""

    token: str
    jti: str
    expires: int

    def __repr__(self) -> str:
        return f"IssuedToken(jti={self.jti!r}, expires={self.expires})"


class Authenticator:
    """Everything about tokens, for one gateway. ``now`` gives seconds since 1970 UTC, ``clock``
    seconds that never go back (Trio's own by default, so that a virtual clock rules tickets and key fetches).

    Raises ``SettingsError`` when the keys of ``settings`` are missing, unreadable or unfit.
    """

    def __init__(
        self,
        settings: AuthSettings,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = running_time,
    ) -> None:
        self._settings = settings
        self._now = now
        self._keys = load_keys(settings)
        self._algorithms = [settings.algorithm]
        self._engine = checker(settings.algorithm)
        self._jwks = _key_set(settings, clock) if settings.jwks_url else None
        self._decoder = msgspec.json.Decoder(Claims)
        self._default_grants = _default_grants(settings)
        self._verified = Verified()
        self.revocations = Revocations(settings, now)
        self.tickets = Tickets(settings, clock, self.recheck)

    @property
    def can_issue(self) -> bool:
        """Tell whether this gateway has a key that signs."""
        return self._keys.sign is not None

    async def verify(self, token: str) -> Identity:
        """Who ``token`` speaks for.

        Raises ``ProtocolError`` with a reason that a client may see: TOKEN_EXPIRED,
        TOKEN_REVOKED, UNAUTHENTICATED for everything else that is wrong with the token,
        TIMEOUT while keys cannot be fetched. Waits at most ``jwks_timeout`` for keys, and never
        with keys of the configuration.
        """
        if not isinstance(token, str) or not token:
            _refuse("no token was given")
        if len(token) > MAX_TOKEN:
            _refuse(f"the token is longer than {MAX_TOKEN} characters")
        key = self._keys.verify if self._jwks is None else await self._key_for(token, self._jwks)
        known = self._verified.find(token, key)
        if known is not None:
            self.recheck(known)
            return known
        try:
            payload = self._engine.decode_complete(token, key, self._algorithms)["payload"]
        except (PyJWTError, ValueError) as exc:
            raise self._refusal(exc) from None
        identity = self._identity(self._claims(payload))
        if self.revocations.is_revoked(identity):
            raise ProtocolError(ErrorCode.TOKEN_REVOKED, "the token was revoked")
        self._verified.keep(token, key, identity)
        return identity

    def recheck(self, identity: Identity) -> None:
        """Raise ``ProtocolError`` TOKEN_EXPIRED or TOKEN_REVOKED when ``identity`` is no longer good."""
        if identity.expires is not None and self._now() >= identity.expires + self._settings.leeway:
            raise ProtocolError(ErrorCode.TOKEN_EXPIRED, "the token has expired")
        if self.revocations.is_revoked(identity):
            raise ProtocolError(ErrorCode.TOKEN_REVOKED, "the token was revoked")

    def issue(
        self,
        *,
        org: str,
        user: str | None = None,
        roles: Sequence[str] = (),
        rooms: Mapping[str, Sequence[str]] | None = None,
        ttl: float | None = None,
        family: Sequence[str] = (),
        meta: Mapping[str, Any] | None = None,
    ) -> IssuedToken:
        """A signed token that lives ``ttl`` seconds (default ``token_ttl``, at most ``max_token_ttl``).

        ``roles`` beside member, service and admin are the application's own: they grant nothing here, and are
        what ``calls`` and approvals ask for.

        Raises ``ProtocolError``: BAD_FIELD for a bad value, CALL_REJECTED when this gateway has no
        key to sign with.
        """
        if self._keys.sign is None:
            raise ProtocolError(
                ErrorCode.CALL_REJECTED, "this gateway has no private key to issue tokens with"
            )
        settings = self._settings
        ttl = settings.token_ttl if ttl is None else ttl
        if not (math.isfinite(ttl) and 1 <= ttl <= settings.max_token_ttl):
            raise ProtocolError(
                ErrorCode.BAD_FIELD, f"ttl must be from 1 to {settings.max_token_ttl:.15g} seconds"
            )
        now = self._now()
        # `iat` keeps its fraction, so that a token issued just after a revocation is not hit by it.
        expires = math.ceil(now + ttl) if not family else math.floor(now + ttl)
        claims: dict[str, Any] = {"org": org, "iat": now, "exp": expires, "jti": secrets.token_hex(16)}
        if user is not None:
            claims["sub"] = user
        if roles:
            claims["roles"] = list(roles)
        if family:
            claims["family"] = list(family)
        if rooms is not None:
            claims["rooms"] = {pattern: list(names) for pattern, names in rooms.items()}
        if meta:
            claims["meta"] = dict(meta)
        if settings.audience:
            claims["aud"] = settings.audience
        if settings.issuer:
            claims["iss"] = settings.issuer
        payload = msgspec.json.encode(claims)
        try:
            self._identity(self._claims(payload))
        except ProtocolError as exc:
            raise ProtocolError(ErrorCode.BAD_FIELD, exc.message) from None
        headers = {"kid": self._keys.kid} if self._keys.kid is not None else None
        token = self._engine.encode(payload, self._keys.sign, settings.algorithm, headers)
        if len(token) > MAX_TOKEN:
            raise ProtocolError(ErrorCode.BAD_FIELD, f"the token would be longer than {MAX_TOKEN} characters")
        return IssuedToken(token=token, jti=claims["jti"], expires=expires)

    def refresh(self, identity: Identity, *, ttl: float | None = None) -> IssuedToken:
        """A token that says the same as the one behind ``identity`` and lives on.

        It lives no longer than that one was issued for, whatever ``ttl`` says, and names what it was
        refreshed from, so that revoking that revokes this as well. Raises as ``issue``.
        """
        wanted = self._settings.token_ttl if ttl is None else ttl
        if identity.expires is not None:
            worth = identity.expires - (self._now() if identity.issued_at is None else identity.issued_at)
            wanted = min(wanted, max(1.0, worth)) if wanted >= 1 else wanted
        family = identity.family
        if identity.jti is not None:
            family = (*family[:1], *family[1:][-(MAX_FAMILY - 2) :], identity.jti)
        return self.issue(
            org=identity.org,
            user=identity.user,
            roles=sorted(identity.roles),
            rooms=self._rooms_claim(identity),
            ttl=wanted,
            family=family,
            meta=msgspec.json.decode(identity.meta) if identity.meta else None,
        )

    def _rooms_claim(self, identity: Identity) -> dict[str, list[str]] | None:
        """What the token's ``rooms`` must have been, as far as it matters."""
        if identity.is_service or identity.grants is self._default_grants:
            return None
        return {
            pattern: [each.name.lower() for each in Permission if each & bits and each.name]
            for pattern, bits in identity.grants.rules
        }

    async def _key_for(self, token: str, jwks: KeySet) -> Any:
        try:
            header = self._engine.get_unverified_header(token)
        except (PyJWTError, ValueError) as exc:
            raise self._refusal(exc) from None
        if header.get("alg") != self._settings.algorithm:
            raise self._refusal(InvalidAlgorithmError())  # before a stranger can cause a fetch with it
        kid = header.get("kid")
        if self._keys.verify is not None and kid == self._keys.kid:
            return self._keys.verify  # one of our own making
        return await jwks.key(kid)

    def _refusal(self, exc: Exception) -> ProtocolError:
        if isinstance(exc, InvalidSignatureError):
            reason = "the token's signature does not match"
        elif isinstance(exc, InvalidAlgorithmError):
            reason = f"wrong algorithm: the token is not signed with {self._settings.algorithm}"
        else:
            reason = "the token is not a well-formed JWT"
        return ProtocolError(ErrorCode.UNAUTHENTICATED, reason)

    def _claims(self, payload: bytes) -> Claims:
        try:
            return self._decoder.decode(payload)
        except msgspec.ValidationError as exc:
            _refuse(f"the token's claims are wrong: {exc}")
        except (ValueError, RecursionError):
            _refuse("the token's claims are not a JSON object")

    def _identity(self, claims: Claims) -> Identity:
        settings = self._settings
        if not claims.org:
            _refuse("the token names no organisation (org)")
        _check_text("org", claims.org, MAX_ORG)
        if claims.sub is not None:
            _check_text("sub", claims.sub, MAX_USER)
        if claims.jti is not None:
            _check_text("jti", claims.jti, MAX_JTI)
        if len(claims.family) > MAX_FAMILY:
            _refuse(f"the token's family has more than {MAX_FAMILY} members")
        for each in claims.family:
            _check_text("family", each, MAX_JTI)
        self._check_times(claims)
        if settings.issuer and claims.iss != settings.issuer:
            _refuse("wrong issuer (iss)" if claims.iss is not None else "the token names no issuer (iss)")
        if settings.audience:
            _check_audience(claims.aud, settings.audience)
        roles = _roles(tuple(claims.roles))
        if "service" in roles or "admin" in roles:
            grants = Grants.ALL
        elif claims.rooms is None:
            grants = self._default_grants
        else:
            grants = _grants(claims.rooms)
        meta = b""
        if claims.meta:
            try:
                check_value(claims.meta)
            except ProtocolError as error:
                _refuse(f"the token's meta is invalid: {error.message}")
            meta = msgspec.json.encode(claims.meta)
        if len(meta) > MAX_META:
            _refuse(f"the token's meta is longer than {MAX_META} bytes")
        return Identity(
            org=claims.org,
            user=claims.sub,
            roles=roles,
            grants=grants,
            expires=claims.exp,
            jti=claims.jti,
            issued_at=claims.iat,
            family=tuple(claims.family),
            meta=meta,
        )

    def _check_times(self, claims: Claims) -> None:
        now, leeway = self._now(), self._settings.leeway
        for name, at in (("exp", claims.exp), ("nbf", claims.nbf), ("iat", claims.iat)):
            if at is not None and not 0 <= at <= _END_OF_TIME:
                _refuse(f"the token's {name} is not a time in seconds since 1970")
        if claims.exp is not None and now >= claims.exp + leeway:
            raise ProtocolError(ErrorCode.TOKEN_EXPIRED, "the token has expired")
        if claims.nbf is not None and now < claims.nbf - leeway:
            _refuse("the token is not valid yet (nbf)")
        if claims.iat is not None and now < claims.iat - leeway:
            _refuse("the token was issued in the future (iat)")


def _key_set(settings: AuthSettings, clock: Callable[[], float]) -> KeySet:
    from gateway.auth.jwks import (
        KeySet,
    )  # here, because it imports an HTTP client that few configurations need

    return KeySet(settings, clock)


def _refuse(reason: str) -> NoReturn:
    raise ProtocolError(ErrorCode.UNAUTHENTICATED, reason)


def _check_text(name: str, text: str, longest: int) -> None:
    if not 1 <= len(text) <= longest:
        _refuse(f"the token's {name} must have 1 to {longest} characters")
    if _UNCLEAN.search(text):
        _refuse(f"the token's {name} holds control characters")


def _check_audience(audience: str | list[str] | None, wanted: str) -> None:
    if audience is None:
        _refuse("the token names no audience (aud)")
    if wanted not in ([audience] if isinstance(audience, str) else audience):
        _refuse("wrong audience (aud)")


@lru_cache(maxsize=1024)
def _roles(names: tuple[str, ...]) -> frozenset[str]:
    """One shared set for equal roles."""
    if len(names) > MAX_ROLES:
        _refuse(f"the token has more than {MAX_ROLES} roles")
    for name in names:
        _check_text("roles", name, MAX_ROLE)
    return frozenset(names)


def _grants(rooms: Mapping[str, Sequence[str]]) -> Grants:
    if len(rooms) > MAX_PATTERNS:
        _refuse(f"the token has more than {MAX_PATTERNS} patterns in rooms")
    try:
        for pattern in rooms:
            check_pattern(pattern, field="pattern", max_bytes=MAX_ROOM_BYTES)
    except ProtocolError as exc:
        _refuse(f"the token's rooms are wrong: {exc.message}")
    try:
        return Grants.of(rooms)
    except KeyError as exc:
        _refuse(f"the token's rooms name an unknown permission {exc.args[0]!r:.80}")


def _default_grants(settings: AuthSettings) -> Grants:
    try:
        return _grants(settings.default_rooms)
    except ProtocolError as exc:
        raise SettingsError(f"auth.default_rooms: {exc.message}") from None
