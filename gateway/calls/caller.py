"""Who makes a call, as a handler sees it."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.auth.identity import Grants, Identity

__all__ = ["Caller"]


@dataclass(frozen=True, slots=True)
class Caller:
    """The client behind one call, as it was when the call came in."""

    connection: str
    """The connection's id: a target of ``Gateway.send_to_connection`` while it is open."""
    identity: Identity
    """What the client's token says; operations take it (``gateway.operations``)."""
    address: str | None = None
    """The client's IP address, where it is known."""

    @property
    def org(self) -> str:
        """The organisation."""
        return self.identity.org

    @property
    def user(self) -> str | None:
        """The user, or None for a token without one."""
        return self.identity.user

    @property
    def roles(self) -> frozenset[str]:
        """The token's roles."""
        return self.identity.roles

    @property
    def grants(self) -> Grants:
        """What the client may do in which rooms."""
        return self.identity.grants
