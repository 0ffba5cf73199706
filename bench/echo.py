"""A plain WebSocket echo on the gateway's own wire code: ``python -m bench.echo --port P``.

All paths, messages up to 32 MiB, no auth, no envelope: for wire-level benchmarks and
conformance suites.
"""

from __future__ import annotations

import argparse
import math
import signal

import trio

from gateway.wire.connection import WireConnection, WireLimits
from gateway.wire.engine import Engine
from gateway.wire.listener import Accepted, Life, Listener
from gateway.wire.upgrade import UpgradeRequest, accept_response
from protocol.frames import BINARY, TEXT, server_frame

_MAX_MESSAGE = 32 * 2**20


class Echo:
    """Sends every message back."""

    deadline = math.inf

    def __init__(self, wire: WireConnection) -> None:
        self._wire = wire

    def on_message(self, payload: bytes, text: bool) -> None:
        self._wire.outbox.put(server_frame(TEXT if text else BINARY, payload))

    def on_deadline(self) -> None:
        """There is none."""


async def serve(host: str, port: int) -> None:
    """Serve until cancelled."""
    engine = Engine()
    limits = WireLimits(
        message_bytes=_MAX_MESSAGE, queue_messages=100_000, queue_bytes=4 * _MAX_MESSAGE, heartbeat=60.0
    )

    async def echo(accepted: Accepted, request: UpgradeRequest, unread: bytes) -> Life:
        await accepted.send(accept_response(request, None))
        wire = WireConnection(
            engine=engine,
            limits=limits,
            sock=accepted.sock,
            stream=accepted.stream,
            unread=unread,
        )
        return wire.run(Echo(wire))

    listener = Listener(websocket=echo, http=None, path=None)
    await listener.bind(host, port)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        nursery.start_soon(_stop_on_signal, nursery.cancel_scope)
        print(f"echo on ws://{host}:{listener.port}/", flush=True)
        await listener.run()


async def _stop_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9001)
    arguments = parser.parse_args()
    trio.run(serve, arguments.host, arguments.port)


if __name__ == "__main__":
    main()
