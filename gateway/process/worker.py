"""One worker of ``gateway serve --workers N``: a gateway on a leash.

The leash is a socket on standard input. The settings come over it (they hold secrets, which neither
the command line nor the environment would keep), the worker says over it that it listens, and when it
ends the supervisor is gone and the worker stops, too. From then on it says every second that it lives.

SIGTERM and SIGINT stop it as any gateway. SIGHUP retires it: others go on serving the port.
"""

from __future__ import annotations

import gc
import signal
import socket
import sys
from typing import TYPE_CHECKING

import msgspec
import trio

from gateway.config.settings import Settings
from gateway.process.supervisor import BEAT, BEAT_EVERY, READY

if TYPE_CHECKING:
    from gateway.app import Gateway

__all__ = ["main"]


def main() -> None:
    """Run a worker; for the supervisor only."""
    gc.set_threshold(100_000)  # as the command does
    from gateway.app import serve

    leash = socket.socket(fileno=0)
    with leash.makefile("rb") as lines:
        settings = msgspec.json.decode(lines.readline(), type=Settings)

    async def beside(gateway: Gateway) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(_retire, gateway)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(leash))
            await stream.send_all(READY)
            nursery.start_soon(_hold, gateway, stream)
            nursery.start_soon(_beat, stream)

    sys.exit(serve(settings, beside=beside))


async def _beat(stream: trio.SocketStream) -> None:
    """Show the supervisor that the event loop responds."""
    try:
        while True:
            await trio.sleep(BEAT_EVERY)
            await stream.send_all(BEAT)
    except trio.BrokenResourceError:
        pass  # it has gone, which the other task notices


async def _hold(gateway: Gateway, stream: trio.SocketStream) -> None:
    try:
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
