"""What several commands take, and what they make of it: the settings, a signer, an address with a token.

Imports as ``commands`` does: what a command needs, when it runs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from msgspec import structs

from gateway import logs
from gateway.cli.arguments import UserError
from gateway.config.settings import Settings
from gateway.config.sources import load_settings

if TYPE_CHECKING:
    from gateway.auth.tokens import Authenticator

__all__ = [
    "Config",
    "Dev",
    "Org",
    "Roles",
    "Rooms",
    "Token",
    "Ttl",
    "Url",
    "authenticator",
    "configured",
    "log_errors",
    "reach",
]

Config = Annotated[
    Path | None, Parameter(help="Configuration file; by default ./gateway.toml, where it exists.")
]
Dev = Annotated[
    bool | None,
    Parameter(
        negative="", help="Development mode: generates a signing key once and keeps it in the data folder."
    ),
]
Org = Annotated[str | None, Parameter(help="Organisation that the token is for.")]
Roles = Annotated[
    tuple[Literal["member", "service", "admin"], ...],
    Parameter(name="--role", negative="", show_default=False, help="Role; may be repeated."),
]
Rooms = Annotated[
    tuple[str, ...],
    Parameter(
        name="--room",
        negative="",
        show_default=False,
        help="Permissions in the rooms of a pattern, as 'PATTERN=join,publish,presence,history'; may be"
        " repeated. Without it the gateway's auth.default_rooms apply.",
    ),
]
Url = Annotated[
    str | None,
    Parameter(
        help="Address of the gateway, ws://HOST:PORT/ws; by default the configured port of this machine."
    ),
]
Token = Annotated[
    str | None, Parameter(help="Token to use; by default one is issued with the key of the configuration.")
]
Ttl = Annotated[str | None, Parameter(help="Lifetime, such as 30s, 15m, 1h or 7d.")]


def configured(config: Path | None, dev: bool | None) -> Settings:
    """The settings, for a command that prints a result: only errors are logged. Raises ``SettingsError``."""
    settings = load_settings(config, os.environ, {"dev": dev})
    # Standard output belongs to the command's result, standard error to its one line.
    logs.errors_only()
    return settings


def log_errors(settings: Settings) -> None:
    """For commands that use parts of the gateway, which log by structlog."""
    logs.configure(structs.replace(settings.log, level="error"))


def authenticator(settings: Settings) -> Authenticator:
    """With the development key also without --dev where one exists: then a gateway runs on it here."""
    from gateway.auth.keys import dev_secret_file, with_signing_key
    from gateway.auth.tokens import Authenticator

    if dev_secret_file(settings).exists():
        settings = structs.replace(settings, dev=True)
    return Authenticator(with_signing_key(settings).auth)


def reach(
    org: str | None, url: str | None, token: str | None, config: Path | None, dev: bool | None
) -> tuple[str, str]:
    """The address to connect to, and a token for it: a service's of ``org`` unless one was given."""
    settings = configured(config, dev)
    address = url or _own_address(settings)
    if token is not None:
        return address, token
    if org is None:
        raise UserError("--org or --token is missing")
    # Never shown, and `tail` may run for long: a connection ends with its token.
    issued = authenticator(settings).issue(org=org, roles=["service"], ttl=settings.auth.max_token_ttl)
    return address, issued.token


def _own_address(settings: Settings) -> str:
    """Where a gateway with these settings takes WebSocket connections, seen from the same machine."""
    from gateway.wire.sockets import reachable_host

    scheme = "wss" if settings.tls.certificate else "ws"
    return f"{scheme}://{reachable_host(settings.host)}:{settings.port}/ws"
