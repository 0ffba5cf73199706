"""Listening sockets, for one process or for several that share a port."""

from __future__ import annotations

import errno
import socket
from typing import Final, Protocol

import trio

__all__ = ["WireSocket", "bind", "reachable_host"]


class WireSocket(Protocol):
    """One end of a connection that never blocks: a plain socket, or TLS over one (``gateway/wire/tls.py``).

    All methods raise OSError; BlockingIOError where there is nothing to read, or no room to write.
    """

    def recv(self, size: int, /) -> bytes:
        """Read at most so many bytes; none at the end."""

    def send(self, data: bytes | memoryview, /) -> int:
        """Take what there is room for; returns how much."""

    def shutdown(self, how: int, /) -> None:
        """Say that nothing more will be sent (``socket.SHUT_WR``)."""

    def close(self) -> None:
        """Close at once."""

    def fileno(self) -> int:
        """What to wait for; -1 when it is closed."""


_FAMILY_IS_MISSING: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


def reachable_host(host: str) -> str:
    """Where a gateway that listens on ``host`` is found from the same machine, as it is written in a URL."""
    if host in ("", "0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


async def bind(host: str, port: int, *, shared: bool = False) -> list[socket.socket]:
    """Bind a socket for every address of ``host`` (empty or ``::``: of the machine); not listening yet.

    With ``shared`` other processes of the same user may do so too, and the kernel spreads connections over
    those that listen (SO_REUSEPORT). Port 0 takes a free one, the same for all addresses. Raises OSError.
    """
    # IPv4 as well, each with a socket of its own, so that peers of either have their plain address.
    addresses = await trio.socket.getaddrinfo(
        None if host == "::" else host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, kind, protocol, _, address in dict.fromkeys(addresses):
            try:
                sock = socket.socket(family, kind, protocol)
                sockets.append(sock)
                _prepare(sock, shared=shared)
                sock.bind((address[0], port, *address[2:]))
            except OSError as error:
                # A name may have an address of a family that this machine does not speak.
                if error.errno not in _FAMILY_IS_MISSING:
                    raise
                missing = error
                sockets.pop().close()
                continue
            port = sock.getsockname()[1]
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    if not sockets:
        raise missing or OSError(errno.EADDRNOTAVAIL, "no such address")
    return sockets


def _prepare(sock: socket.socket, *, shared: bool) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
