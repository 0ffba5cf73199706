"""The bodies of requests and answers; the OpenAPI document is generated from them.

Times are milliseconds since 1970 UTC, as in the envelope, and durations are in seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from gateway.auth.tokens import MAX_ROLE, MAX_ROLES
from gateway.hub.trace import Outcome
from protocol.envelope import MAX_EVENT_BYTES, MAX_MID_BYTES, MAX_ROOM_BYTES

__all__ = [
    "Batch",
    "BatchResults",
    "Body",
    "Broadcast",
    "BroadcastOperation",
    "ClosedConnections",
    "ConnectionInfo",
    "ConnectionPage",
    "ConnectionQuery",
    "Disconnect",
    "Disconnected",
    "Emit",
    "Empty",
    "History",
    "HistoryQuery",
    "OrganisationQuery",
    "PlainText",
    "Presence",
    "Problem",
    "Published",
    "Readiness",
    "Recipient",
    "Refresh",
    "Revoke",
    "RoomInfo",
    "RoomPage",
    "RoomQuery",
    "Send",
    "SendOperation",
    "SendToUsers",
    "SentTo",
    "SentToUsers",
    "Stats",
    "Ticket",
    "Token",
    "TokenRequest",
    "Trace",
    "TraceQuery",
    "UserPlace",
]

Cursor = Annotated[str, msgspec.Meta(description="`next` of the page before; opaque.")]
Missing = Annotated[
    list[str], msgspec.Meta(description="Nodes that did not answer; what they have is not listed.")
]
Org = Annotated[
    str, msgspec.Meta(description="The organisation; only an admin may name another than its own.")
]
Limit = Annotated[int, msgspec.Meta(ge=1, le=1000, description="Most entries in one page.")]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, description="Milliseconds since 1970 UTC.")]
Permissions = dict[str, list[Literal["join", "publish", "presence", "history"]]]


def _name(longest: int, pattern: str, description: str) -> msgspec.Meta:
    """Describe a name. The checks are those of ``protocol.names``, whose errors have numbers of their own."""
    bounds = {"minLength": 1, "maxLength": longest, "pattern": f"^[^{pattern}]+$"}
    return msgspec.Meta(description=description, extra_json_schema=bounds)


_CONTROL = r"\u0000-\u001f\u007f"
EventName = Annotated[
    str, _name(MAX_EVENT_BYTES, f"{_CONTROL}*", "1 to 100 bytes, without `*` and control characters.")
]
RoomName = Annotated[
    str, _name(MAX_ROOM_BYTES, f"{_CONTROL}*", "1 to 200 bytes, without `*` and control characters.")
]
MessageId = Annotated[
    str,
    _name(
        MAX_MID_BYTES,
        _CONTROL,
        "Message id; a repeated one gets the place of the first. Made when absent.",
    ),
]
Lifetime = Annotated[
    float, msgspec.Meta(description="Lifetime in seconds.", extra_json_schema={"minimum": 1})
]


class Problem(msgspec.Struct, omit_defaults=True):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: Annotated[int, msgspec.Meta(description="Error number; see the table of error numbers.")]
    retry_after: Annotated[float, msgspec.Meta(description="Seconds.")] | None = None


class PlainText(msgspec.Struct):
    """Prometheus text format."""


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """What callers send: a misspelt `room` must not reach everyone, nor a misspelt `rooms` permit all."""


class Empty(msgspec.Struct):
    """No member is needed."""


class OrganisationQuery(msgspec.Struct):
    org: Org | None = None


# --- tokens ---------------------------------------------------------------------------------------


class TokenRequest(Body):
    """Who the new token is for."""

    org: Org | None = None
    user: str | None = None
    roles: Annotated[
        list[Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ROLE)]],
        msgspec.Meta(
            max_length=MAX_ROLES,
            description="`member`, `service`, `admin`, and the application's own, which grant nothing:"
            " approvals and the setting `roles` of `calls` ask for them.",
        ),
    ] = []
    rooms: (
        Annotated[
            Permissions,
            msgspec.Meta(description="Room pattern → permissions; absent means the gateway's default."),
        ]
        | None
    ) = None
    ttl: Lifetime | None = None


class Refresh(Body):
    """How long the new token is to live."""

    ttl: Lifetime | None = None


class Token(msgspec.Struct):
    """A signed token."""

    token: str
    jti: str
    expires: Milliseconds


class Ticket(msgspec.Struct):
    """A ticket for `/ws?ticket=…`, good once."""

    ticket: str
    expires_in: Annotated[float, msgspec.Meta(description="Seconds.")]


class Revoke(Body):
    """What to revoke: one of `jti`, `user` and `org`; `user` and `jti` may come with `org`."""

    jti: str | None = None
    user: str | None = None
    org: Org | None = None


class ClosedConnections(msgspec.Struct):
    """What was done."""

    closed: Annotated[
        int, msgspec.Meta(description="Open connections that were closed, on all nodes that answered.")
    ]


# --- what is known --------------------------------------------------------------------------------


class NodeInfo(msgspec.Struct, omit_defaults=True):
    """One node."""

    id: Annotated[str, msgspec.Meta(description="Begins the ids of its connections.")]
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

    nodes: Annotated[list[NodeInfo], msgspec.Meta(description="Those that are counted.")]
    missing: Annotated[list[str], msgspec.Meta(description="Nodes that did not answer, and are not counted.")]
    reason: Annotated[str, msgspec.Meta(description="Why nothing is known of the nodes.")] | None = None
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
    cut: Annotated[bool, msgspec.Meta(description="In lists: it has more rooms or filters.")] | None = None
    transport: Annotated[str, msgspec.Meta(description="`websocket`, `sse` or `poll`.")] | None = None
    user: str | None = None
    ip: str | None = None
    user_agent: str | None = None
    client_id: str | None = None
    meta: Annotated[dict[str, Any], msgspec.Meta(description="The token's claim of that name.")] | None = None
    expires: Milliseconds | None = None
    queue: WaitingQueue | None = None


class ConnectionPage(msgspec.Struct, omit_defaults=True):
    """Connections, the oldest first."""

    connections: list[ConnectionInfo]
    next: Cursor | None = None
    missing: Missing | None = None


class ConnectionQuery(msgspec.Struct):
    org: Org | None = None
    user: Annotated[str, msgspec.Meta(description="Only connections of this user.")] | None = None
    room: Annotated[str, msgspec.Meta(description="Only connections in this room.")] | None = None
    limit: Limit = 100
    cursor: Cursor | None = None


class RoomInfo(msgspec.Struct):
    """A room that somebody is in."""

    room: str
    members: int
    users: int
    seq: int
    epoch: str


class RoomPage(msgspec.Struct, omit_defaults=True):
    """Rooms with a member, by name."""

    rooms: list[RoomInfo]
    next: Cursor | None = None
    missing: Missing | None = None


class RoomQuery(msgspec.Struct):
    org: Org | None = None
    limit: Limit = 100
    cursor: Cursor | None = None


class HistoryQuery(msgspec.Struct):
    org: Org | None = None
    epoch: Annotated[str, msgspec.Meta(description="With `seq`: of the last event that is known.")] | None = (
        None
    )
    seq: Annotated[int, msgspec.Meta(ge=0, description="Only later events.")] | None = None
    limit: Limit | None = None


class PastEvent(msgspec.Struct, omit_defaults=True):
    seq: int
    event: str
    ts: Milliseconds
    mid: str
    data: Any = None
    sender: str | None = None


class History(msgspec.Struct):
    """Kept events of a room, the oldest first."""

    room: str
    epoch: str
    seq: Annotated[int, msgspec.Meta(description="Position of the room now.")]
    events: list[PastEvent]
    more: Annotated[bool, msgspec.Meta(description="Later events are kept than the last one here.")]
    complete: Annotated[bool, msgspec.Meta(description="No event after `seq` of the query is gone.")]


class PresentUser(msgspec.Struct):
    user: str
    connections: int


class Presence(msgspec.Struct):
    """Who is in a room, on this node."""

    room: str
    members: list[PresentUser]
    connections: Annotated[int, msgspec.Meta(description="Also those without a user.")]


# --- events ---------------------------------------------------------------------------------------


Critical = Annotated[
    bool,
    msgspec.Meta(
        description="Overtakes what waits for slow clients, also under load (role service or admin)."
    ),
]


class Broadcast(Body):
    """An event for a room, or without `room` for the whole organisation."""

    event: EventName
    data: Any = None
    room: RoomName | None = None
    exclude: Annotated[
        list[str], msgspec.Meta(description="Users who do not get it.", max_length=10_000)
    ] = []
    mid: MessageId | None = None
    critical: Critical = False
    org: Org | None = None


class Emit(Broadcast):
    """A typed event, for the room that is named or that its type names."""


class Published(msgspec.Struct):
    """The place that the event got."""

    mid: str
    seq: int
    epoch: str


class Send(Body):
    """An event for one user or connection."""

    event: EventName
    data: Any = None
    mid: MessageId | None = None
    org: Org | None = None
    ephemeral: Annotated[
        bool, msgspec.Meta(description="To a user: worth nothing later, so it has no place and is not kept.")
    ] = False


class SendToUsers(Send):
    """An event for several users."""

    users: Annotated[
        list[str], msgspec.Meta(description="Each has it in an order of their own. At most 1,000.")
    ] = []


class UserPlace(msgspec.Struct, omit_defaults=True):
    """The place in one user's order; nothing of what is ephemeral."""

    seq: int | None = None
    epoch: str | None = None


class SentToUsers(msgspec.Struct):
    """The places that it got."""

    mid: str
    users: dict[str, UserPlace]


class SentTo(msgspec.Struct, omit_defaults=True):
    """How many connections it was queued for, and its place in the user's order, if it has one."""

    mid: str
    connections: int
    seq: int | None = None
    epoch: str | None = None


class Disconnect(Body):
    """Why; both are told to the client."""

    code: Annotated[
        int,
        msgspec.Meta(ge=4000, le=4999, description="Close code; up to 4499 the client comes back."),
    ] = 4500
    reason: Annotated[str, msgspec.Meta(description="At most 100 bytes.")] = (
        "disconnected by an administrator"
    )
    org: Org | None = None


class Disconnected(msgspec.Struct):
    """The connection that is being closed."""

    connection: str
    code: int


class BroadcastOperation(Broadcast, tag_field="op", tag="broadcast"):
    """As `POST /broadcast`."""


class SendOperation(Send, tag_field="op", tag="send"):
    """As the three sends: names one of `user`, `users` and `connection`."""

    user: str | None = None
    users: Annotated[list[str], msgspec.Meta(description="At most 1,000.")] | None = None
    connection: str | None = None


class Batch(Body):
    """Operations, done in their order; one that fails does not stop the others."""

    operations: list[BroadcastOperation | SendOperation]


class OperationResult(msgspec.Struct, omit_defaults=True):
    """`status` 200 with what the operation alone would have answered, or `problem`."""

    status: int
    mid: str | None = None
    seq: int | None = None
    epoch: str | None = None
    connections: int | None = None
    users: dict[str, UserPlace] | None = None
    problem: Problem | None = None


class BatchResults(msgspec.Struct):
    """One result for each operation, in order."""

    results: list[OperationResult]


# --- traces ---------------------------------------------------------------------------------------


class TraceQuery(msgspec.Struct):
    org: Org | None = None
    user: Annotated[str, msgspec.Meta(description="Only connections of this user.")] | None = None


class Recipient(msgspec.Struct, omit_defaults=True):
    """What became of the message for one connection; without `connection`, for one user."""

    outcome: Annotated[
        Outcome,
        msgspec.Meta(
            description=(
                "`queued`: waits for a slow socket; `sent`: handed to the network; `replayed`: likewise, "
                "later than for the others; `lagging`: kept, or to be read from history, when the socket has "
                "drained; `dropped` for the `reason` given; `closed` before it could be sent; `filtered` by "
                "the connection's filters; `excluded` by the publisher; `not_joined`: connected, but not in "
                "the room; `not_connected`; `unknown`: beyond `trace.recipients`."
            )
        ),
    ]
    connection: str | None = None
    user: str | None = None
    matched: Annotated[bool, msgspec.Meta(description="The message was for this connection.")] | None = None
    reason: (
        Annotated[
            str,
            msgspec.Meta(
                description=(
                    "The overflow policy that keeps or dropped it; `history` when it was gone before it "
                    "could be replayed; `left` when the room was left before."
                )
            ),
        ]
        | None
    ) = None


class Trace(msgspec.Struct, omit_defaults=True):
    """What became of one message on one node."""

    node: str
    mid: str
    event: str
    ts: Milliseconds
    complete: Annotated[bool, msgspec.Meta(description="No recipient is beyond `trace.recipients`.")]
    recipients: list[Recipient]
    room: str | None = None
    seq: int | None = None
    epoch: str | None = None
    sender: str | None = None


class Readiness(msgspec.Struct, omit_defaults=True):
    """Whether the gateway takes work."""

    status: str
    detail: str = ""
    """What an operator should see to all the same: settings of other nodes, or clocks, that differ."""
    calls: dict[str, str] | None = None
    """Breaker of each backend of calls, by its pattern: closed, open or half-open."""
    database: (
        Annotated[bool, msgspec.Meta(description="Whether the database can be used, where there is one.")]
        | None
    ) = None
