"""The bodies of requests and answers about notifications."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from gateway.operations.notifications import (
    MAX_ACTION,
    MAX_DATA,
    MAX_MESSAGE,
    MAX_PAGE,
    MAX_TITLE,
    MAX_USERS,
    Kind,
)
from gateway.rest.models import Body, Cursor, MessageId, Milliseconds, Org

__all__ = [
    "Notification",
    "NotificationCreated",
    "NotificationCreation",
    "NotificationOwner",
    "NotificationPage",
    "NotificationQuery",
    "Unread",
]

User = Annotated[
    str, msgspec.Meta(description="The user; by default the token's. Others only for service and admin.")
]
Id = Annotated[str, msgspec.Meta(description="Digits, as text, because they exceed JavaScript's numbers.")]


class Action(Body, omit_defaults=True):
    """What a client may offer to do."""

    type: Annotated[str, msgspec.Meta(description=f"1 to {MAX_TITLE} characters.")]
    label: Annotated[str, msgspec.Meta(description=f"1 to {MAX_TITLE} characters.")] | None = None
    payload: Annotated[Any, msgspec.Meta(description="Without script addresses (`javascript:`).")] | None = (
        None
    )


class NotificationCreation(Body, omit_defaults=True):
    """A notification for one `user`, or for each of up to 1,000 `users`."""

    type: Kind
    title: Annotated[str, msgspec.Meta(description=f"1 to {MAX_TITLE} characters, in one line.")]
    message: Annotated[str, msgspec.Meta(description=f"1 to {MAX_MESSAGE:,} characters.")]
    user: str | None = None
    users: Annotated[list[str], msgspec.Meta(description=f"1 to {MAX_USERS:,}.")] | None = None
    data: (
        Annotated[Any, msgspec.Meta(description=f"At most {MAX_DATA:,} bytes of JSON, 8 levels deep.")] | None
    ) = None
    action: Annotated[Action, msgspec.Meta(description=f"At most {MAX_ACTION:,} bytes of JSON.")] | None = (
        None
    )
    expires_at: Milliseconds | None = None
    mid: MessageId | None = None
    org: Org | None = None


class NotificationCreated(msgspec.Struct, omit_defaults=True):
    """`id` when one `user` was named, `ids` by user otherwise."""

    id: Id | None = None
    ids: dict[str, Id] | None = None


class Notification(msgspec.Struct, omit_defaults=True):
    id: Id
    type: Kind
    title: str
    message: str
    created_at: Milliseconds
    read: bool
    data: Any = None
    action: Any = None
    sender: str | None = None
    expires_at: Milliseconds | None = None
    read_at: Milliseconds | None = None


class NotificationPage(msgspec.Struct, omit_defaults=True):
    """Notifications, the newest first."""

    notifications: list[Notification]
    unread: Annotated[int, msgspec.Meta(description="Number of unread ones, up to `store.unread_maximum`.")]
    next: Cursor | None = None


class NotificationOwner(msgspec.Struct):
    org: Org | None = None
    user: User | None = None


class NotificationQuery(NotificationOwner):
    unread: Annotated[bool, msgspec.Meta(description="Only unread ones.")] = False
    type: Annotated[Kind, msgspec.Meta(description="Only those of this type.")] | None = None
    limit: Annotated[
        int, msgspec.Meta(ge=1, le=MAX_PAGE, description="Largest number of entries in one page.")
    ] = 50
    cursor: Cursor | None = None


class Unread(msgspec.Struct):
    """How many are unread now."""

    unread: int
