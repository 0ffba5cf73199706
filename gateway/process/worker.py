"""One worker of ``gateway serve --workers N``: a gateway on a leash.

The leash is a socket on standard input. The settings come over it (they hold secrets, which neither
the command line nor the environment would keep), the worker says over it that it listens, and when it
ends the supervisor is gone and the worker stops, too.

SIGTERM and SIGINT stop it as any gateway. SIGHUP retires it: others go on serving the port.
"""

from __future__ import annotations

import signal
import socket
import sys

import msgspec
import trio

from gateway.app import Gateway, serve
from gateway.config.settings import Settings
from gateway.process.supervisor import READY

__all__ = ["main"]


def main() -> None:
    """Run a worker; for the supervisor only."""
    leash = socket.socket(fileno=0)
    with leash.makefile("rb") as lines:
        settings = msgspec.json.decode(lines.readline(), type=Settings)

    async def beside(gateway: Gateway) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(_retire, gateway)
            nursery.start_soon(_hold, gateway, leash)

    sys.exit(serve(settings, beside=beside))


async def _hold(gateway: Gateway, leash: socket.socket) -> None:
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(leash))
    try:
        await stream.send_all(READY)
        while await stream.receive_some():
            pass
    except trio.BrokenResourceError:
        pass
    gateway.stop()


async def _retire(gateway: Gateway, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            gateway.stop(siblings=True)


if __name__ == "__main__":
    main()
