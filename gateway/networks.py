"""Which addresses count as one, wherever an address is counted: limits, rates, bans, handshakes."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from typing import Final

__all__ = ["network_of"]

_PREFIX: Final = 64
"""A site gets 64 bits at least (RFC 6177), and its machines make up their addresses there (RFC 4862)."""
_TRANSLATED: Final = IPv6Network("64:ff9b::/96")
"""IPv4 behind a translator (RFC 6052): the last 32 bits are the client's address."""


def network_of(address: str) -> str:
    """What ``address`` counts as: an IPv4 address as itself, an IPv6 address as its /64.

    IPv4 that comes as IPv6 (``::ffff:192.0.2.1``, ``64:ff9b::192.0.2.1``) counts as IPv4, and what is no
    address as itself. Never raises.
    """
    if ":" not in address:
        return address
    try:
        found = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if found in _TRANSLATED:
        return str(IPv6Address(0xFFFF << 32 | int(found) & 0xFFFFFFFF).ipv4_mapped)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return f"{IPv6Address(int(found) >> _PREFIX << _PREFIX)}/{_PREFIX}"
