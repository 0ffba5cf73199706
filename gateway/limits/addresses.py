"""Whose address counts: that of the socket, or behind a proxy that is trusted the one that it tells."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

__all__ = ["Addresses"]

_PORT: Final = re.compile("(:[0-9]{1,5})?").fullmatch


class Addresses:
    """Reads ``X-Forwarded-For``, and believes it only as far as it comes from trusted proxies."""

    def __init__(self, trusted: Iterable[str]) -> None:
        """``trusted`` are addresses and networks (``10.0.0.0/8``); raises ValueError for what is neither."""
        self._networks = [ip_network(each, strict=False) for each in trusted]

    def is_trusted(self, peer: str) -> bool:
        """Tell whether ``peer`` is a trusted proxy."""
        try:
            address = _plain(ip_address(peer))
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def client(self, peer: str, forwarded: str) -> str:
        """The address of the client behind ``peer``; ``forwarded`` is the whole header, empty for none.

        Every proxy appends whom it got the request from, so what the client wrote itself stands on the
        left; read from the right, the first address that is no trusted proxy is the client's.
        """
        if not self._networks:
            return peer
        for text in (peer, *reversed(forwarded.split(","))):
            try:
                address = _plain(ip_address(_without_port(text.strip())))
            except ValueError:
                return peer
            peer = str(address)
            if not any(address in network for network in self._networks):
                return peer
        return peer


def _without_port(text: str) -> str:
    """The address of an entry, which may be written ``"[2001:db8::7]:443"`` or ``203.0.113.7:5000``."""
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    if text.startswith("["):
        address, closed, port = text[1:].partition("]")
        return address if closed and _PORT(port) else text
    address, colon, port = text.partition(":")
    return address if colon and _PORT(colon + port) else text


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """IPv4 as IPv4, also where a socket of both kinds shows it as ``::ffff:192.0.2.1``."""
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address
