"""What ``gateway check`` examines before a start: is each part of the configuration usable and safe?"""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from gateway.auth.jwks import KeySet
from gateway.auth.keys import dev_secret_file, load_keys, weakness, with_signing_key
from gateway.config.origins import never_sent
from gateway.config.settings import Settings, SettingsError, hide_password
from gateway.config.sources import SQLITE
from gateway.extensions import load_extensions
from protocol.errors import ProtocolError

__all__ = ["Finding", "examine"]

REACH_TIMEOUT: Final = 5.0
"""Seconds to connect to a server."""
MIN_CALL_SECRET: Final = 24
"""Bytes; Standard Webhooks asks for 24 to 64."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One part's result; ``text`` is what was found or what is wrong."""

    part: str
    ok: bool
    text: str
    risks: tuple[str, ...] = ()
    """What can be used, and should not stay as it is."""


class _Failure(Exception):
    """A part cannot be used; the text says why."""


_Look = Callable[[Settings, list[str]], Awaitable[str]]
"""Says what was found, and adds risks to the list; raises ``_Failure`` or ``SettingsError``."""


async def examine(settings: Settings, file: Path | None = None) -> list[Finding]:
    """One finding for each part; waits at most ``REACH_TIMEOUT`` seconds for each server. Raises nothing.

    ``file`` is the configuration file, which may hold secrets.
    """
    parts: list[tuple[str, _Look]] = [
        ("access", partial(_access, file)),
        ("keys", _keys),
        ("broker", _broker),
        ("database", _database),
    ]
    if settings.tls.certificate:
        parts.append(("tls", _tls))
    if settings.extensions:
        parts.append(("extensions", _extensions))
    findings = []
    for part, look in parts:
        risks: list[str] = []
        try:
            findings.append(Finding(part, True, await look(settings, risks), tuple(risks)))
        except (_Failure, SettingsError) as exc:
            findings.append(Finding(part, False, str(exc)))
    return findings


async def _access(file: Path | None, settings: Settings, risks: list[str]) -> str:
    """Who may read secrets, and which pages may connect."""
    files = [settings.auth.private_key_file, settings.tls.key]
    files += [str(dev_secret_file(settings))] if settings.dev else []
    files += [str(file)] if file is not None and _holds_secrets(file) else []
    risks += [
        f"{name} can be read by other users of this machine: chmod 600 {name}"
        for name in files
        if name and _is_open(Path(name))
    ]
    for origin in settings.allowed_origins:
        if reason := never_sent(origin):
            risks.append(f"allowed_origins: {origin} never matches: {reason}")
    if settings.dev and settings.host not in ("127.0.0.1", "::1", "localhost"):
        risks.append(f"development mode listens on {settings.host}: use it on this machine only")
    if settings.allowed_origins:
        return f"pages of {', '.join(settings.allowed_origins)}"
    return "pages of every origin"


def _holds_secrets(file: Path) -> bool:
    return "secret" in file.read_text(encoding="utf-8")


def _is_open(path: Path) -> bool:
    return path.is_file() and bool(path.stat().st_mode & 0o077)


async def _keys(settings: Settings, risks: list[str]) -> str:
    auth = with_signing_key(settings).auth
    keys = load_keys(auth)
    if auth.secret and (reason := weakness(auth.secret)):
        risks.append(f"auth.secret is weak: {reason}; use 32 random bytes: openssl rand -base64 32")
    for pattern, call in settings.calls.items():
        if call.secret and (size := len(signing_key(call.secret))) < MIN_CALL_SECRET:
            risks.append(
                f"calls.{pattern!r}.secret is weak: {size} bytes, at least {MIN_CALL_SECRET} are needed:"
                " openssl rand -base64 32"
            )
    text = f"{auth.algorithm}, tokens {'can' if keys.sign is not None else 'cannot'} be issued here"
    if auth.jwks_url:
        try:
            count = await KeySet(auth).fetch()
        except ProtocolError as exc:
            raise _Failure(f"{hide_password(auth.jwks_url)}: {exc.message}") from None
        text += f", {count} from the JWKS address"
    return text


def signing_key(secret: str) -> bytes:
    """The bytes behind a secret of ``calls``, which has been checked to be base64."""
    return base64.b64decode(secret.removeprefix("whsec_") + "==")


async def _extensions(settings: Settings, risks: list[str]) -> str:
    try:
        load_extensions(settings.extensions)
    except SettingsError as error:
        raise _Failure(str(error).removeprefix("extensions: ")) from None
    return ", ".join(settings.extensions)


async def _broker(settings: Settings, risks: list[str]) -> str:
    if settings.broker == "memory":
        return "memory"
    from gateway.broker.redis.connection import LinkLost
    from gateway.broker.redis.servers import probe

    try:
        found = await probe(settings.broker, settings.redis)
    except LinkLost as error:
        raise _Failure(f"{hide_password(settings.broker)} cannot be used: {error}") from None
    risks.extend(found.risks)
    return found.text


async def _database(settings: Settings, risks: list[str]) -> str:
    database = settings.database
    if database == "none":
        return "none: no notifications, executions or approvals"
    text = hide_password(database)
    if database.startswith(SQLITE):
        text, exists = _sqlite(database)
        if not exists:
            return f"{text}, will be created at the start"
    from gateway.store import EMPTY, newest_version, schema_version

    with trio.move_on_after(REACH_TIMEOUT):
        found = await trio.to_thread.run_sync(
            schema_version, database, settings.store, abandon_on_cancel=True
        )
        needed = newest_version()
        if found < needed and not database.startswith(SQLITE):
            state = "is empty" if found == EMPTY else f"has the schema {found}"
            raise _Failure(f"{text} {state}, {needed} is needed: run 'gateway migrate'")
        if found < needed:
            risks.append(f"schema {found} is older than {needed}: 'gateway serve' migrates it at its start")
        elif found > needed:
            risks.append(f"schema {found} is newer than {needed}: a later release has migrated it")
        return f"{text}, schema {found}"
    raise _Failure(f"{text} does not answer within {REACH_TIMEOUT:g} seconds")


def _sqlite(database: str) -> tuple[str, bool]:
    """Where it is, and whether there is something yet."""
    name = database.removeprefix(SQLITE + "/").partition("?")[0]
    if name == ":memory:":
        return "sqlite in memory", False
    path = Path(name)
    if path.is_dir():
        raise _Failure(f"{path} is a folder")
    place = path if path.exists() else path.parent
    while not place.exists():
        place = place.parent  # will be made at the start
    if not path.exists() and not place.is_dir():
        raise _Failure(f"{place} is not a folder")
    if not os.access(place, os.W_OK):
        raise _Failure(f"{place} is not writable")
    return f"sqlite, {path}", path.exists()


async def _tls(settings: Settings, risks: list[str]) -> str:
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            settings.tls.certificate, settings.tls.key, password=_no_password
        )
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "they cannot be read together"
        raise _Failure(f"{settings.tls.certificate} and {settings.tls.key}: {reason}") from None
    return settings.tls.certificate


def _no_password() -> str:
    """Keeps OpenSSL from asking on the terminal."""
    return ""
