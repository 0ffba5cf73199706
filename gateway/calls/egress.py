"""Where calls to backends may connect to: the name is resolved once, checked, and that address is used.

A name that resolves to a private address would let whoever controls the name reach what only this machine or
its network can (RFC 1918, loopback, link-local: cloud metadata services live there). Checking the name alone
would not help, because it may resolve to something else a moment later.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

import httpcore
import trio

__all__ = ["CheckedNetwork", "ForbiddenAddress"]


class ForbiddenAddress(httpcore.ConnectError):
    """The host is at an address that calls may not go to."""


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects over Trio; unless ``private``, only to addresses that are public."""

    def __init__(self, *, private: bool) -> None:
        self._private = private
        self._inner = httpcore.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve and connect; raises ``ForbiddenAddress``, ``ConnectError`` and ``ConnectTimeout``."""
        with trio.move_on_after(timeout if timeout is not None else 60.0) as scope:
            try:
                found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
            except OSError as error:
                raise httpcore.ConnectError(f"cannot resolve: {error.strerror}") from None
        if scope.cancelled_caught:
            raise httpcore.ConnectTimeout("cannot resolve in time")
        addresses = [str(entry[4][0]) for entry in found]
        if not self._private:
            addresses = [each for each in addresses if ipaddress.ip_address(each.partition("%")[0]).is_global]
            if not addresses:
                raise ForbiddenAddress("resolves to a private address, which this call may not reach")
        return await self._inner.connect_tcp(addresses[0], port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        """As ``trio.sleep``."""
        await trio.sleep(seconds)
