"""The bodies of requests and answers about events: publish, send, a batch of both, and a message's trace."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from gateway.hub.trace import Outcome
from gateway.rest.models import Body, EventName, MessageId, Milliseconds, Org, Problem, RoomName

__all__ = [
    "Batch",
    "BatchResults",
    "Broadcast",
    "BroadcastOperation",
    "Emit",
    "OperationResult",
    "Published",
    "Recipient",
    "Send",
    "SendOperation",
    "SendToUsers",
    "SentTo",
    "SentToUsers",
    "Trace",
    "TraceQuery",
    "UserPlace",
]


Critical = Annotated[
    bool,
    msgspec.Meta(
        description="Overtakes messages queued for slow clients, also under load (role service or admin)."
    ),
]


class Broadcast(Body):
    """An event for a room, or without `room` for the whole organisation."""

    event: EventName
    data: Any = None
    room: RoomName | None = None
    exclude: Annotated[
        list[str], msgspec.Meta(description="Users who do not receive it.", max_length=10_000)
    ] = msgspec.field(default_factory=list)
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
        bool, msgspec.Meta(description="To a user: without a position in the order, and not kept.")
    ] = False


class SendToUsers(Send):
    """An event for several users."""

    users: Annotated[
        list[str], msgspec.Meta(description="Each gets it in their own order. At most 1,000.")
    ] = msgspec.field(default_factory=list)


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
    complete: Annotated[
        bool, msgspec.Meta(description="False if there were more recipients than `trace.recipients`.")
    ]
    recipients: list[Recipient]
    room: str | None = None
    seq: int | None = None
    epoch: str | None = None
    sender: str | None = None
