"""The origin of a call, as a handler sees it."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.auth.identity import Grants, Identity

__all__ = ["Caller"]


@dataclass(frozen=True, slots=True)
class Caller:
    """The client behind one call, as it was when the call arrived."""

    connection: str
    """The connection's id: a target of ``Gateway.send_to_connection`` while it is open."""
    identity: Identity
    """The contents of the client's token; pass it to operations (``gateway.operations``)."""
    address: str | None = None
    """The client's IP address, if known."""

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
        """The client's permissions by room."""
        return self.identity.grants
