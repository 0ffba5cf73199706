"""How connections begin and end: WebSockets (``connection``), and those that only send (``downstream``)."""

from __future__ import annotations

import socket

import trio

from gateway.wire.outbox import Outbox
from gateway.wire.sockets import WireSocket

__all__ = ["half_close", "release", "start_writer"]


def start_writer(
    nursery: trio.Nursery, outbox: Outbox, sock: WireSocket | None, stream: trio.abc.Stream | None
) -> None:
    """Write what ``outbox`` holds to the one of the two that there is, from now on by a task."""
    if sock is not None:
        nursery.start_soon(outbox.write_socket, sock)
    else:
        assert stream is not None
        nursery.start_soon(outbox.write_stream, stream)
    outbox.on_blocked = None


async def release(outbox: Outbox, sock: WireSocket | None, stream: trio.abc.Stream | None) -> None:
    """Close what the connection was given, and leave nothing of it behind. May run under cancellation."""
    outbox.break_off()
    outbox.on_full = outbox.on_blocked = None
    if sock is not None:
        sock.close()
    try:
        if stream is not None:
            await trio.aclose_forcefully(stream)
    finally:
        outbox.end()


def half_close(sock: WireSocket | None) -> bool:
    """Say that nothing more follows; False when the connection is gone already."""
    if sock is not None:
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            return False
    return True
