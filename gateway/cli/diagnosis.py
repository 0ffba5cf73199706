"""What ``gateway check`` finds out before a start: can every part of the configuration be used?"""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import trio

from gateway.auth.jwks import KeySet
from gateway.auth.keys import load_keys, with_signing_key
from gateway.config.settings import Settings, SettingsError, hide_password
from gateway.config.sources import SQLITE
from gateway.extensions import load_extensions
from protocol.errors import ProtocolError

__all__ = ["Finding", "examine"]

REACH_TIMEOUT: Final = 5.0
"""Seconds to connect to a server."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One part's result; ``text`` is what was found or what is wrong."""

    part: str
    ok: bool
    text: str


class _Failure(Exception):
    """A part cannot be used; the text says why."""


async def examine(settings: Settings) -> list[Finding]:
    """One finding for each part; waits at most ``REACH_TIMEOUT`` seconds for each server. Raises nothing."""
    parts: list[tuple[str, Callable[[Settings], Awaitable[str]]]] = [
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
        try:
            findings.append(Finding(part, True, await look(settings)))
        except (_Failure, SettingsError) as exc:
            findings.append(Finding(part, False, str(exc)))
    return findings


async def _keys(settings: Settings) -> str:
    auth = with_signing_key(settings).auth
    keys = load_keys(auth)
    text = f"{auth.algorithm}, tokens {'can' if keys.sign is not None else 'cannot'} be issued here"
    if auth.jwks_url:
        try:
            count = await KeySet(auth).fetch()
        except ProtocolError as exc:
            raise _Failure(f"{hide_password(auth.jwks_url)}: {exc.message}") from None
        text += f", {count} from the JWKS address"
    return text


async def _extensions(settings: Settings) -> str:
    try:
        load_extensions(settings.extensions)
    except SettingsError as error:
        raise _Failure(str(error).removeprefix("extensions: ")) from None
    return ", ".join(settings.extensions)


async def _broker(settings: Settings) -> str:
    if settings.broker == "memory":
        return "memory"
    from gateway.broker.redis.connection import LinkLost
    from gateway.broker.redis.servers import probe

    try:
        return await probe(settings.broker, settings.redis)
    except LinkLost as error:
        raise _Failure(f"{hide_password(settings.broker)} cannot be used: {error}") from None


async def _database(settings: Settings) -> str:
    if not settings.database.startswith(SQLITE):
        await _reach(settings.database, 5432)
        return hide_password(settings.database)
    return _sqlite(settings.database)


def _sqlite(database: str) -> str:
    name = database.removeprefix(SQLITE + "/").partition("?")[0]
    if name == ":memory:":
        return "sqlite in memory"
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
    return f"sqlite, {path}"


async def _tls(settings: Settings) -> str:
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


async def _reach(address: str, default_port: int) -> None:
    shown = hide_password(address)
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "127.0.0.1", parts.port or default_port
    except ValueError:
        raise _Failure(f"{shown} is not a valid address") from None
    try:
        with trio.fail_after(REACH_TIMEOUT):
            stream = await trio.open_tcp_stream(host, port)
            await stream.aclose()
    except trio.TooSlowError:
        raise _Failure(f"{shown} does not answer within {REACH_TIMEOUT:g} seconds") from None
    except OSError as exc:
        raise _Failure(f"{shown} cannot be reached: {exc.strerror or type(exc).__name__}") from None
