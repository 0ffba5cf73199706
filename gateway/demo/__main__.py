"""``python -m gateway.demo``: a gateway in development mode, with users and agents on it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

import trio

from gateway.app import Gateway
from gateway.auth.keys import with_signing_key
from gateway.config.settings import Settings, SettingsError
from gateway.config.sources import load_settings
from gateway.demo.workload import Workload
from gateway.embedding import open_gateway
from gateway.logs import configure

_DEFAULTS: dict[str, str] = {"GATEWAY_LOG_LEVEL": "warning", "GATEWAY_TRACE_MESSAGES": "1000"}


async def _run(settings: Settings, pace: float) -> None:
    async with open_gateway(settings) as gateway:
        base = f"http://{settings.host}:{gateway.port}"
        token = _token(gateway, "alice", "service")
        print(
            "\nTrireme is running with a demonstration workload. Open the console:\n\n"
            f"  {base}/#token={token}\n\n"
            "Ctrl-C ends it; nothing of it is kept.\n",
            flush=True,
        )
        workload = Workload(base, lambda user, role: _token(gateway, user, role), pace=pace)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(workload.run)
                async for _ in signals:
                    nursery.cancel_scope.cancel()
                    break
        print("Stopping …", flush=True)


def _token(gateway: Gateway, user: str, role: str) -> str:
    return gateway.auth.issue(org="acme", user=user, roles=[role], ttl=86_400).token


def main() -> int:
    """Run until Ctrl-C; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m gateway.demo", description="A gateway with a living workload."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (8000); 0 takes a free one")
    parser.add_argument("--pace", type=float, default=1.0, help="how fast the workload goes (1.0)")
    given = parser.parse_args()
    if not given.pace > 0:
        parser.error("--pace: must be above 0")
    with tempfile.TemporaryDirectory(prog := "trireme-demo-") as folder:
        flags = {
            "host": given.host,
            "port": given.port,
            "dev": True,
            "database": f"sqlite:///{Path(folder) / 'demo.db'}",
        }
        try:
            settings = with_signing_key(load_settings(None, {**_DEFAULTS, **os.environ}, flags))
            configure(settings.log)
            trio.run(_run, settings, given.pace)
        except SettingsError as error:
            print(f"{prog}: {error}", file=sys.stderr)
            return 2
        except OSError as error:
            print(f"demo: cannot listen on {given.host}:{given.port}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
