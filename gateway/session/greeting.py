"""What a client is told when it is admitted."""

from __future__ import annotations

from typing import Any

from gateway.config.settings import Settings
from gateway.hub.connection import Connection

__all__ = ["greeting"]


def greeting(
    connection: Connection, settings: Settings, subprotocol: str, resume: str, unread: int | None
) -> dict[str, Any]:
    """The data of ``connected``; ``unread`` notifications are told where they were counted."""
    identity = connection.identity
    data: dict[str, Any] = {
        "connection": connection.id,
        "org": identity.org,
        "node": connection.node,
        "resume": resume,
        "heartbeat": settings.connection.heartbeat,
        "subprotocol": subprotocol,
        "limits": {
            "message_bytes": settings.limits.message_bytes,
            "rooms": settings.limits.rooms_per_connection,
            "patterns": settings.limits.patterns_per_filter,
            "values": settings.limits.message_values,
        },
    }
    if identity.user is not None:
        data["user"] = identity.user
    data["positions"] = {
        of: {"epoch": place.joined_at.epoch, "seq": place.joined_at.seq}
        for of, place in zip(("organisation", "user"), connection.internal, strict=False)
    }
    if identity.expires is not None:
        data["expires"] = int(identity.expires * 1000)
    if unread is not None:
        data["unread"] = unread
    return data
