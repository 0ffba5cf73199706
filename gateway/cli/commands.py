"""The command ``gateway``.

Exit codes: 0 done, 1 something outside failed (a server, a file), 2 the command or the
configuration is wrong. What went wrong is one line on standard error.

Each command imports what it needs when it runs: most are over before Trio, httpx and structlog are imported.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError, MissingArgumentError

from gateway import logs
from gateway.cli.arguments import Failed, UserError, parse_rooms, parse_seconds
from gateway.cli.options import (
    Config,
    Dev,
    Org,
    Roles,
    Rooms,
    Token,
    Ttl,
    Url,
    authenticator,
    configured,
    log_errors,
    reach,
)
from gateway.config.settings import Settings, SettingsError
from gateway.config.sources import DEFAULT_FILE, load_settings, load_with_sources
from protocol.errors import ProtocolError

if TYPE_CHECKING:
    from gateway.auth.tokens import Authenticator

__all__ = ["main"]

app = App(
    name="gateway",
    help="Trireme: a real-time gateway with rooms, events and many organisations over WebSocket.",
    help_format="plaintext",
    version=lambda: importlib.metadata.version("trireme-gateway"),
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)


@app.command
def serve(
    *,
    host: Annotated[str | None, Parameter(help="Address to listen on (127.0.0.1).")] = None,
    port: Annotated[int | None, Parameter(help="Port to listen on (8000); 0 takes a free one.")] = None,
    config: Config = None,
    broker: Annotated[
        str | None,
        Parameter(help="memory, or the address of a Redis: redis://HOST:PORT."),
    ] = None,
    database: Annotated[
        str | None, Parameter(help="sqlite:///FILE, postgresql+psycopg://USER@HOST/NAME, or none.")
    ] = None,
    workers: Annotated[int | None, Parameter(help="Processes that share the port (1).")] = None,
    dev: Dev = None,
    reload: Annotated[
        bool,
        Parameter(negative="", help="With --dev: restart when a Python or TOML file in this folder changes."),
    ] = False,
) -> int:
    """Run the gateway until SIGTERM or Ctrl-C.

    A flag wins over the environment (GATEWAY_PORT, GATEWAY_AUTH_SECRET, …),
    which wins over the configuration file.
    """
    settings = load_settings(
        config,
        os.environ,
        {
            "host": host,
            "port": port,
            "broker": broker,
            "database": database,
            "workers": workers,
            "dev": dev,
        },
    )
    if reload:
        if not settings.dev:
            raise UserError("--reload is for development: add --dev")
        logs.configure(settings.log)
        from gateway.process.reload import serve_again

        return serve_again([each for each in sys.argv[1:] if each != "--reload"], Path.cwd())
    from gateway.auth.keys import with_signing_key
    from gateway.extensions import load_extensions

    settings = with_signing_key(settings)
    load_extensions(settings.extensions)  # once here, so that a fault is reported once, not by each worker
    logs.configure(settings.log)
    if settings.workers > 1:
        from gateway.process.supervisor import supervise

        return supervise(settings)
    from gateway.app import serve as run

    return run(settings)


@app.command
def token(
    *,
    org: Org = None,
    user: Annotated[str | None, Parameter(help="User that the token is for.")] = None,
    role: Roles = (),
    room: Rooms = (),
    ttl: Ttl = None,
    inspect: Annotated[
        str | None,
        Parameter(
            allow_leading_hyphen=True,
            help="Show this token instead, and whether it is valid (exit code 1: it is not); - reads standard"
            " input.",
        ),
    ] = None,
    config: Config = None,
    dev: Dev = None,
) -> int:
    """Print a token (JWT), signed with the key of the configuration."""
    settings = configured(config, dev)
    if inspect is not None:
        return _inspect(sys.stdin.read() if inspect == "-" else inspect, settings)
    if org is None:
        raise UserError("--org is missing; see gateway token --help")
    issued = authenticator(settings).issue(
        org=org,
        user=user,
        roles=role,
        rooms=parse_rooms(room),
        ttl=None if ttl is None else parse_seconds("--ttl", ttl),
    )
    print(issued.token)
    return 0


def _inspect(text: str, settings: Settings) -> int:
    import trio

    from gateway.cli.inspection import inspect

    log_errors(settings)
    signer: Authenticator | SettingsError
    try:
        signer = authenticator(settings)
    except SettingsError as error:
        signer = error
    found, valid = trio.run(inspect, text, signer)
    print(found)
    return 0 if valid else 1


@app.command
def check(*, config: Config = None, dev: Dev = None) -> int:
    """Check the configuration, the keys, the broker and the database.

    Prints one line per part and one per risk. Exits with 1 when a part is unusable.
    """
    try:
        settings = configured(config, dev)
    except SettingsError as exc:
        print(f"configuration: FAILED: {exc}")
        return 1
    print("configuration: ok")
    import trio

    from gateway.cli.diagnosis import examine

    log_errors(settings)
    findings = trio.run(examine, settings, config or (DEFAULT_FILE if DEFAULT_FILE.exists() else None))
    for finding in findings:
        print(f"{finding.part}: {'ok' if finding.ok else 'FAILED'}: {finding.text}")
        for risk in finding.risks:
            print(f"{finding.part}: warning: {risk}")
    return 0 if all(finding.ok for finding in findings) else 1


settings_app = App(name="config", help="Write or show the configuration.")
app.command(settings_app)


@settings_app.command
def init(path: Annotated[Path, Parameter(help="File to create.")] = DEFAULT_FILE, /) -> int:
    """Write a configuration file with every setting and its default, commented out."""
    from gateway.cli.configuration import write_template

    write_template(path)
    print(f"wrote {path}; every line is a comment until you change it")
    return 0


@settings_app.command
def show(
    *,
    changed: Annotated[bool, Parameter(negative="", help="Only settings that are not defaults.")] = False,
    config: Config = None,
    dev: Dev = None,
) -> int:
    """Print the settings in force as TOML, secrets hidden, and where each comes from."""
    from gateway.cli.configuration import render

    settings, sources = load_with_sources(config, os.environ, {"dev": dev})
    print(render(settings, sources, changed=changed))
    return 0


@settings_app.command
def page() -> int:
    """Print the reference of all settings as a Markdown page."""
    from gateway.cli import configuration

    print(configuration.page(), end="")
    return 0


@app.command
def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print a script that completes commands and options in a shell.

    For bash: gateway completion bash > ~/.local/share/bash-completion/completions/gateway
    """
    print(app.generate_completion(shell=shell))
    return 0


@app.command
def migrate(
    *,
    to: Annotated[
        str | None, Parameter(help="Version to go to, up or down, such as 0001; by default the newest.")
    ] = None,
    database: Annotated[str | None, Parameter(help="Address; by default the configured one.")] = None,
    config: Config = None,
) -> int:
    """Migrate the database to the schema that this release needs; its data is kept."""
    settings = load_settings(config, os.environ, {"database": database})
    log_errors(settings)
    if settings.database == "none":
        raise UserError("database is none: there is nothing to migrate")
    from gateway.store import migrate as bring

    before, after = bring(settings.database, to, settings.store)
    print(f"schema {after}, unchanged" if before == after else f"schema {before} → {after}")
    return 0


@app.command
def publish(
    *,
    event: Annotated[str, Parameter(help="Name of the event, such as message:new.")],
    room: Annotated[
        str | None, Parameter(help="Room to publish to; without it the event goes to the whole organisation.")
    ] = None,
    org: Annotated[str | None, Parameter(help="Organisation to publish in; not needed with --token.")] = None,
    data: Annotated[str, Parameter(help="The event's data as JSON.", show_default=False)] = "null",
    format: Annotated[Literal["json", "pretty"], Parameter(help="The reply as JSON, or as text.")] = "json",
    url: Url = None,
    token: Token = None,
    config: Config = None,
    dev: Dev = None,
) -> int:
    """Publish one event to a running gateway; prints its room, number and message id."""
    try:
        value = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        raise UserError("--data: is not valid JSON (a text needs its own quotes: '\"hi\"')") from None
    import trio

    from gateway.cli import remote

    address, bearer = reach(org, url, token, config, dev)
    with remote.network(address):
        print(trio.run(remote.publish, address, bearer, room, event, value, format))
    return 0


@app.command
def tail(
    *rooms: Annotated[str, Parameter(help="Rooms to follow.")],
    org: Annotated[str | None, Parameter(help="Organisation to follow; not needed with --token.")] = None,
    events: Annotated[
        tuple[str, ...],
        Parameter(
            negative="", show_default=False, help="Only events that match this pattern; may be repeated."
        ),
    ] = (),
    format: Annotated[
        Literal["json", "pretty"], Parameter(help="One JSON object per line, or text.")
    ] = "pretty",
    url: Url = None,
    token: Token = None,
    config: Config = None,
    dev: Dev = None,
) -> int:
    """Print the events of rooms as they happen, until Ctrl-C.

    Without rooms: events for the whole organisation.
    """
    import trio

    from gateway.cli import remote

    address, bearer = reach(org, url, token, config, dev)

    def begun() -> None:
        what = ", ".join(rooms) or "the organisation"
        print(f"following {what}; Ctrl-C to stop", file=sys.stderr, flush=True)

    with remote.network(address):
        trio.run(remote.follow, address, bearer, rooms, events, format, _print_line, begun)
    return 0


def main() -> None:
    """Entry point of the command."""
    # What is imported stays; to go over it again and again takes a fifth of a start.
    gc.set_threshold(100_000)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Carry out one command line and return its exit code."""
    try:
        result = app(arguments, exit_on_error=False, print_error=False)
    except MissingArgumentError as exc:
        assert exc.argument is not None
        if exc.keyword is not None:  # it was named, and then nothing came
            return _complain(str(exc), 2)
        command = " ".join(["gateway", *(exc.command_chain or ())])
        return _complain(f"{exc.argument.name} is missing; see {command} --help", 2)
    except (CycloptsError, SettingsError, UserError, ProtocolError) as exc:
        return _complain(str(exc), 2)
    except Failed as exc:
        return _complain(str(exc), 1)
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python would complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        return 130
    return result if isinstance(result, int) else 0


def _complain(message: str, code: int) -> int:
    print(f"gateway: {logs.hide_secrets(' '.join(message.split()))}", file=sys.stderr)
    return code


def _print_line(line: str) -> None:
    print(line, flush=True)
