"""The bodies of requests and answers about connections, and the counts of all of them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from gateway.rest.models import Body, Cursor, Limit, Milliseconds, Missing, Org

__all__ = [
    "ConnectionInfo",
    "ConnectionPage",
    "ConnectionQuery",
    "Disconnect",
    "Disconnected",
    "JoinedRoom",
    "NodeInfo",
    "Stats",
    "WaitingQueue",
    "Whole",
]


class NodeInfo(msgspec.Struct, omit_defaults=True):
    """One node."""

    id: Annotated[str, msgspec.Meta(description="Prefix of the ids of its connections.")]
    node: Annotated[str, msgspec.Meta(description="Its name in the settings.")]
    connections: int
    address: str | None = None
    version: str | None = None
    started: Milliseconds | None = None


class Whole(msgspec.Struct, omit_defaults=True):
    """Counts of all nodes together.

    Of an organisation, `users` counts each user once; of everything, `users` and `rooms` are added up over
    the nodes.
    """

    nodes: Annotated[list[NodeInfo], msgspec.Meta(description="The counted nodes.")]
    missing: Annotated[list[str], msgspec.Meta(description="Nodes that did not answer, and are not counted.")]
    reason: Annotated[str, msgspec.Meta(description="Why there are no counts of the nodes.")] | None = None
    connections: int | None = None
    connections_total: int | None = None
    disconnections_total: int | None = None
    users: int | None = None
    messages_in: int | None = None
    messages_out: int | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    rooms: dict[str, int] | int | None = None
    organisations: dict[str, int] | None = None
    publishes: int | None = None
    deliveries: int | None = None


class Stats(msgspec.Struct, omit_defaults=True):
    """Counts of this node and, under `cluster`, of all; of one organisation, or of everything."""

    node: str
    uptime: Annotated[float, msgspec.Meta(description="Seconds.")]
    connections: int
    connections_total: int
    disconnections_total: int
    users: int
    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int
    rooms: Annotated[
        dict[str, int] | int,
        msgspec.Meta(
            description="Of an organisation: room → members, of the 1,000 largest. Of the node: how many."
        ),
    ]
    org: str | None = None
    organisations: (
        Annotated[
            dict[str, int], msgspec.Meta(description="Organisation → open connections, of the 1,000 largest.")
        ]
        | None
    ) = None
    publishes: int | None = None
    deliveries: int | None = None
    cluster: Whole | None = None


class JoinedRoom(msgspec.Struct, omit_defaults=True):
    room: str
    events: Annotated[list[str], msgspec.Meta(description="The filter of the join.")] | None = None
    seq: int | None = None
    acked: int | None = None


class WaitingQueue(msgspec.Struct):
    """What waits for a slow socket."""

    messages: int
    bytes: int


class ConnectionInfo(msgspec.Struct, omit_defaults=True):
    """One open connection.

    Members see `ip`, `user_agent`, `client_id`, `meta`, `queue` and filters (`events`, `except`) of their own
    only, and of others the rooms whose presence they may see.
    """

    connection: str
    org: str
    roles: list[str]
    node: str
    connected_at: Milliseconds
    last_activity: Milliseconds
    subprotocol: str
    rooms: list[JoinedRoom]
    messages_in: int
    messages_out: int
    events: list[str] | None = None
    cut: Annotated[bool, msgspec.Meta(description="In lists: there are more rooms or filters.")] | None = None
    transport: Annotated[str, msgspec.Meta(description="`websocket`, `sse` or `poll`.")] | None = None
    user: str | None = None
    ip: str | None = None
    user_agent: str | None = None
    client_id: str | None = None
    meta: Annotated[dict[str, Any], msgspec.Meta(description="The token's claim of that name.")] | None = None
    expires: Milliseconds | None = None
    queue: WaitingQueue | None = None


class ConnectionPage(msgspec.Struct, omit_defaults=True):
    """Connections, oldest first."""

    connections: list[ConnectionInfo]
    next: Cursor | None = None
    missing: Missing | None = None


class ConnectionQuery(msgspec.Struct):
    org: Org | None = None
    user: Annotated[str, msgspec.Meta(description="Only connections of this user.")] | None = None
    room: Annotated[str, msgspec.Meta(description="Only connections in this room.")] | None = None
    limit: Limit = 100
    cursor: Cursor | None = None


class Disconnect(Body):
    """Why; both are told to the client."""

    code: Annotated[
        int,
        msgspec.Meta(ge=4000, le=4999, description="Close code; up to 4499 the client reconnects."),
    ] = 4500
    reason: Annotated[str, msgspec.Meta(description="At most 100 bytes.")] = (
        "disconnected by an administrator"
    )
    org: Org | None = None


class Disconnected(msgspec.Struct):
    """The connection that is being closed."""

    connection: str
    code: int
