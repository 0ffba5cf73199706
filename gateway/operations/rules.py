"""What several operations check, and the one text of each refusal."""

from __future__ import annotations

from typing import Final

from gateway.auth.identity import Grants, Identity, Permission
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["Permission", "organisation", "permit", "permit_target", "require_service", "service"]

_ACTIONS: Final = {
    Permission.JOIN: "join this room",
    Permission.PUBLISH: "publish to this room",
    Permission.PRESENCE: "see who is in this room",
    Permission.HISTORY: "read this room's history",
}
_SERVICE: Final = frozenset({"service"})


def service(org: str, user: str | None = None) -> Identity:
    """The identity of code in the gateway's own process: a service of ``org``, in the name of ``user``."""
    return Identity(org=org, user=user, roles=_SERVICE, grants=Grants.ALL)


def permit(identity: Identity, room: str, permission: Permission, action: str | None = None) -> None:
    """Raise FORBIDDEN unless the token grants ``permission`` in ``room``; ``action`` says what it may not."""
    if not identity.grants.allows(room, permission):
        name = (permission.name or "").lower()
        raise ProtocolError(
            ErrorCode.FORBIDDEN,
            f"this token may not {action or _ACTIONS[permission]}: it lacks the permission {name}",
        )


def permit_target(identity: Identity, kind: str, name: str) -> None:
    """Raise FORBIDDEN unless the token may send to the ``kind`` (``user``, ``connection``) of that name."""
    if not identity.grants.allows_target(f"{kind}:{name}"):
        raise ProtocolError(ErrorCode.FORBIDDEN, f"this token may not send to this {kind}")


def require_service(identity: Identity, what: str = "this") -> None:
    """Raise FORBIDDEN unless the caller has the role service or admin."""
    if not identity.is_service:
        raise ProtocolError(ErrorCode.FORBIDDEN, f"{what} needs the role service or admin")


def organisation(identity: Identity, named: str | None) -> str:
    """The organisation that an operation is about: the caller's own, unless an admin names another.

    Raises WRONG_ORGANISATION, or BAD_FIELD for an empty name.
    """
    if named is None or named == identity.org:
        return identity.org
    if not identity.is_admin:
        raise ProtocolError(ErrorCode.WRONG_ORGANISATION, "this token is for another organisation")
    if not named:
        raise ProtocolError(ErrorCode.BAD_FIELD, "org: must not be empty")
    return named
