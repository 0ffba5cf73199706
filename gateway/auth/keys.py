"""Keys that check and sign tokens, read once at the start."""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import HMACAlgorithm
from jwt.exceptions import PyJWTError
from msgspec import structs

from gateway.config.settings import AuthSettings, Settings, SettingsError

__all__ = [
    "MIN_RSA_BITS",
    "MIN_SECRET_BYTES",
    "Keys",
    "checker",
    "fits",
    "load_keys",
    "weakness",
    "with_signing_key",
]

MIN_SECRET_BYTES: Final = 32
"""RFC 7518, section 3.2: a key of the hash's size or larger."""
MIN_RSA_BITS: Final = 2048
"""RFC 7518, section 3.3."""

_DEV_SECRET: Final = "dev-secret"
_PUBLIC: Final[dict[str, tuple[type, ...]]] = {
    "RS256": (rsa.RSAPublicKey,),
    "ES256": (ec.EllipticCurvePublicKey,),
    "EdDSA": (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey),
}


class _PreparedHMAC(HMACAlgorithm):
    """HS256 with a key that was checked at the start; PyJWT would check it again for every token."""

    def prepare_key(self, key: str | bytes) -> bytes:
        return key if isinstance(key, bytes) else key.encode()


@dataclass(frozen=True, slots=True)
class Keys:
    """``verify`` is None when keys come from a JWKS address, ``sign`` when no token can be
    issued. ``kid`` names the pair in the head of issued tokens."""

    verify: Any
    sign: Any
    kid: str | None = None

    def __repr__(self) -> str:
        return f"Keys(kid={self.kid!r})"


def checker(algorithm: str) -> jwt.PyJWS:
    """A PyJWT engine that knows ``algorithm`` and nothing else."""
    engine = jwt.PyJWS(algorithms=[algorithm])
    if algorithm == "HS256":
        engine.unregister_algorithm("HS256")
        engine.register_algorithm("HS256", _PreparedHMAC(HMACAlgorithm.SHA256))
    return engine


def load_keys(settings: AuthSettings) -> Keys:
    """Read and check the keys of ``settings``; raises ``SettingsError`` naming the setting, never the key."""
    if settings.algorithm == "HS256":
        return _secret(settings)
    sign = _private(settings) if settings.private_key_file else None
    own = None if sign is None else sign.public_key()
    if settings.jwks_url:
        return Keys(verify=own, sign=sign, kid=None if own is None else _thumbprint(own))
    if settings.public_key_file:
        verify = _public(settings)
        if own is not None and _thumbprint(own) != _thumbprint(verify):
            raise SettingsError("auth.private_key_file and auth.public_key_file do not belong together")
    elif own is not None:
        verify = own
    else:
        raise SettingsError(
            f"no key to check {settings.algorithm} tokens: set auth.public_key_file or auth.jwks_url"
        )
    return Keys(verify=verify, sign=sign, kid=None if own is None else _thumbprint(own))


def fits(algorithm: str, key: object) -> bool:
    """Tell whether ``key`` is a public key strong enough and of the right kind for ``algorithm``."""
    if not isinstance(key, _PUBLIC[algorithm]):
        return False
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= MIN_RSA_BITS
    return not isinstance(key, ec.EllipticCurvePublicKey) or isinstance(key.curve, ec.SECP256R1)


def with_signing_key(settings: Settings) -> Settings:
    """``settings``, with development mode's own secret where HS256 has none.

    The secret is generated once and kept in ``<data_dir>/dev-secret``, readable by its
    owner only. Raises ``SettingsError`` when there is no secret outside development
    mode, or when the file cannot be read or written.
    """
    auth = settings.auth
    if auth.algorithm != "HS256" or auth.secret:
        return settings
    if not settings.dev:
        raise SettingsError(
            f"no signing key: set auth.secret (GATEWAY_AUTH_SECRET) to at least {MIN_SECRET_BYTES} bytes,"
            " or start with --dev"
        )
    path = dev_secret_file(settings)
    try:
        secret = _read_or_make(path)
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"the development key {path} cannot be used: {_why(exc)}") from exc
    if len(secret.encode()) < MIN_SECRET_BYTES:
        raise SettingsError(f"the development key {path} is damaged: delete it to get a new one")
    return _with_secret(settings, secret)


def dev_secret_file(settings: Settings) -> Path:
    """Where development mode keeps its key."""
    return Path(settings.data_dir) / _DEV_SECRET


def weakness(secret: str) -> str:
    """Why somebody could guess this secret, which is long enough; empty when nothing shows it."""
    kinds = len(set(secret))
    if kinds < 10:
        return f"it has only {kinds} different characters"
    for word in ("secret", "password", "changeme", "change-me", "replace-this", "example"):
        if word in secret.lower():
            return f"it contains {word!r}"
    return ""


def _with_secret(settings: Settings, secret: str) -> Settings:
    return structs.replace(settings, auth=structs.replace(settings.auth, secret=secret))


def _read_or_make(path: Path) -> str:
    """The key in ``path``; made there first, so that two starts at the same time end with the same one."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(48) + "\n")
            try:
                os.link(fresh, path)  # fails if another start was faster
            except FileExistsError:
                pass
        finally:
            fresh.unlink()
    return path.read_text().strip()


def _secret(settings: AuthSettings) -> Keys:
    if settings.jwks_url or settings.public_key_file or settings.private_key_file:
        raise SettingsError(
            "auth.jwks_url, auth.public_key_file and auth.private_key_file"
            " need auth.algorithm RS256, ES256 or EdDSA"
        )
    if not settings.secret:
        raise SettingsError("no signing key: auth.secret (GATEWAY_AUTH_SECRET) is empty")
    secret = settings.secret.encode()
    if len(secret) < MIN_SECRET_BYTES:
        raise SettingsError(
            f"auth.secret is too short: {len(secret)} bytes, at least {MIN_SECRET_BYTES} are needed"
        )
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except PyJWTError:
        raise SettingsError(
            "auth.secret looks like a public key or certificate; HS256 needs a random secret"
        ) from None
    return Keys(verify=secret, sign=secret)


def _public(settings: AuthSettings) -> Any:
    data = _read(settings.public_key_file, "auth.public_key_file")
    try:
        key = serialization.load_pem_public_key(data)
    except ValueError:
        raise SettingsError(
            f"auth.public_key_file {settings.public_key_file} is not a PEM public key"
        ) from None
    return _check(settings, key, "auth.public_key_file")


def _private(settings: AuthSettings) -> Any:
    data = _read(settings.private_key_file, "auth.private_key_file")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        raise SettingsError(
            f"auth.private_key_file {settings.private_key_file} is not a PEM private key without a password"
        ) from None
    _check(settings, key.public_key(), "auth.private_key_file")
    return key


def _check(settings: AuthSettings, key: Any, name: str) -> Any:
    if not fits(settings.algorithm, key):
        needed = {
            "RS256": f"an RSA key of {MIN_RSA_BITS} bits or more",
            "ES256": "an elliptic-curve key on P-256",
            "EdDSA": "an Ed25519 or Ed448 key",
        }[settings.algorithm]
        raise SettingsError(f"{name} does not fit auth.algorithm {settings.algorithm}, which needs {needed}")
    return key


def _read(file: str, name: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as exc:
        raise SettingsError(f"{name} {file} cannot be read: {_why(exc)}") from exc


def _why(exc: Exception) -> str:
    return exc.strerror or str(exc) if isinstance(exc, OSError) else "it is not text"


def _thumbprint(public_key: Any) -> str:
    der = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()[:32]
