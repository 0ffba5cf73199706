"""What development mode prints when it listens: the page, and what to try next."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from gateway.auth.tokens import Authenticator
from gateway.config.settings import Settings
from gateway.wire.sockets import reachable_host

__all__ = ["command", "welcome"]

_DEFAULT_PORT = Settings().port


def command() -> str:
    """How to start the command ``gateway`` again from the same folder, as it was started now."""
    started = Path(sys.argv[0])
    if started.name != "gateway":  # python -m gateway
        return f"{shlex.quote(_near(Path(sys.executable)))} -m gateway"
    found = shutil.which("gateway")
    if found is not None and Path(found).resolve() == started.resolve():
        return "gateway"
    return shlex.quote(_near(started))


def _near(path: Path) -> str:
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def welcome(settings: Settings, port: int) -> None:
    """Print the address of the console with a token, and commands that work in another terminal."""
    secure = "s" if settings.tls.certificate else ""
    authority = f"{reachable_host(settings.host)}:{port}"
    base = f"http{secure}://{authority}"
    gateway = command()
    where = "" if port == _DEFAULT_PORT else f" --url ws{secure}://{authority}/ws"
    token = Authenticator(settings.auth).issue(org="acme", user="alice", roles=["service"]).token
    print(
        f"""
Trireme is running in development mode. Open the console:

  {base}/#token={token}

Try next, in two other terminals in this folder:

  {gateway} tail --org acme{where} chat:42
  {gateway} publish --org acme{where} --room chat:42 --event message:new --data '{{"text": "hello"}}'

The same with curl:

  export TOKEN=$({gateway} token --org acme --user bob --role service)
  curl -sS {base}/api/v1/broadcast -H "Authorization: Bearer $TOKEN" \\
       --json '{{"room": "chat:42", "event": "message:new", "data": {{"text": "hello"}}}}'
""",
        flush=True,
    )
