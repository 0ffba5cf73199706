"""Where Redis is, as ``broker`` in the settings says it.

=====================================================  ===========================================
``redis://[user:password@]host[:port][/database]``     one server
``redis+unix:///path/to/socket[?db=0]``                one server on a Unix socket
``redis+sentinel://host:port,host:port/service[/db]``  the primary that the Sentinels name
``redis+cluster://host:port,host:port``                a cluster; any of its nodes will do
=====================================================  ===========================================

With ``rediss`` in place of ``redis`` it is reached over TLS. User and password count for all servers,
but not for Sentinels, which are asked without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from gateway.config.settings import SettingsError, hide_password

__all__ = ["Address", "parse_address"]

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_FORMS: Final = "redis://HOST:6379, redis+sentinel://HOST:26379/SERVICE or redis+cluster://HOST:6379"


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address."""

    kind: Literal["single", "sentinel", "cluster"]
    hosts: tuple[tuple[str, int], ...]
    """The server, or the Sentinels, or some nodes of the cluster."""
    path: str = ""
    """The Unix socket, if that is where the server is."""
    tls: bool = False
    username: str | None = None
    password: str | None = None
    database: int = 0
    service: str = ""
    """What the Sentinels call the primary."""


class _UnknownScheme(ValueError):
    """Not an address of Redis at all."""


def parse_address(address: str) -> Address:
    """Read an address; raises ``SettingsError``."""
    try:
        return _parse(address)
    except _UnknownScheme:
        raise SettingsError(f"broker {hide_password(address)!r} is unknown: use memory, {_FORMS}") from None
    except ValueError as error:
        reason = f": {error}" if str(error) else ""
        raise SettingsError(
            f"broker {hide_password(address)!r} cannot be used{reason}; use {_FORMS}"
        ) from None


def _parse(address: str) -> Address:
    parts = urlsplit(address)
    scheme, _, form = parts.scheme.partition("+")
    if scheme not in ("redis", "rediss") or form not in ("", "unix", "sentinel", "cluster"):
        raise _UnknownScheme
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    path = [unquote(part) for part in parts.path.split("/") if part]
    query = parse_qs(parts.query, strict_parsing=bool(parts.query))
    database = _database(query.pop("db", [""])[0])
    if query or parts.fragment:
        raise ValueError(f"{next(iter(query), '#')!r} is not supported here")
    socket = service = ""
    if form == "unix":
        socket = unquote(parts.path)
        if hosts or not socket or scheme == "rediss":
            raise ValueError("write a Unix socket as redis+unix:///path")
    else:
        if form == "sentinel":
            if not path:
                raise ValueError("the name of the service is missing")
            service = path.pop(0)
        database = _database(path.pop(0)) if path and not database else database
        if path:
            raise ValueError(f"{path[0]!r} is not supported here")
    if form == "cluster" and database:
        raise ValueError("a cluster has no databases")
    return Address(
        kind="sentinel" if form == "sentinel" else "cluster" if form == "cluster" else "single",
        hosts=() if socket else _hosts(hosts, form),
        path=socket,
        tls=scheme == "rediss",
        username=unquote(username) or None,
        password=unquote(password) or None,
        database=database,
        service=service,
    )


def _database(text: str) -> int:
    if text and not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is not the number of a database")
    return int(text or 0)


def _hosts(text: str, form: str) -> tuple[tuple[str, int], ...]:
    default = _SENTINEL_PORT if form == "sentinel" else _PORT
    found = []
    for each in text.split(","):
        one = urlsplit(f"//{each}")
        if not one.hostname:
            raise ValueError("a host is missing")
        found.append((one.hostname, one.port or default))
    if len(found) > 1 and not form:
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    return tuple(found)
