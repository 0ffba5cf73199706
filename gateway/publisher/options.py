"""What may be said to a publisher, and with a call, beside what it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from gateway.publisher.backlog import OnError

__all__ = [
    "ApprovalOptions",
    "ExecutionChanges",
    "ExecutionOptions",
    "NotifyOptions",
    "PublishOptions",
    "PublisherOptions",
    "SendOptions",
    "TokenOptions",
]


class PublisherOptions(TypedDict, total=False):
    """Of both publishers. Times are in seconds."""

    timeout: float
    """For one request; 10."""
    deadline: float
    """For all tries of a call together; 30."""
    tries: int
    """Of one call at most; 5."""
    connections: int
    """To the gateway: so many are open at a time, and are kept; 10."""
    queue_messages: int
    """Which wait in the queue at most; 10,000."""
    queue_bytes: int
    """Of all of them together; 16 MiB."""
    on_error: OnError | None
    """Is called with each operation of the queue that is given up, and why."""
    close_timeout: float
    """For which closing waits for the queue; 5."""
    headers: Mapping[str, str] | None
    """Which go with every request."""


class _Where(TypedDict, total=False):
    org: str
    """Another organisation; for admins."""


class PublishOptions(_Where, total=False):
    """``mid``: the message id (made when absent); ``exclude``: users; ``critical``: overtakes what waits."""

    mid: str
    exclude: Sequence[str]
    critical: bool


class SendOptions(_Where, total=False):
    """``ephemeral``: it has no place in the user's order and is not kept."""

    mid: str
    ephemeral: bool


class NotifyOptions(_Where, total=False):
    """``action`` is ``{type, label?, payload?}``; ``expires_at`` in milliseconds since 1970 UTC."""

    type: Literal["info", "success", "warning", "error"]
    data: Any
    action: dict[str, Any]
    expires_at: int
    mid: str


class ExecutionOptions(_Where, total=False):
    """What is known when it begins."""

    id: str
    team: str
    method: str
    status: Literal["queued", "running"]
    input: Any
    metadata: dict[str, Any]


class ExecutionChanges(_Where, total=False):
    """What has changed; ``progress`` from 0 to 100; ``version``: only if that is the latest."""

    status: Literal["running", "completed", "failed", "cancelled"]
    progress: float
    step: str
    tools: Sequence[str]
    result: Any
    error: str
    version: int


class ApprovalOptions(_Where, total=False):
    """Either ``users`` or ``role``; ``deadline`` in seconds, and the choice that is taken then."""

    users: Sequence[str]
    role: str
    id: str
    message: str
    data: Any
    choices: Sequence[str]
    deadline: float
    fallback: str
    execution: str
    task: str


class TokenOptions(_Where, total=False):
    """``rooms``: pattern → permissions; ``ttl`` in seconds."""

    user: str
    roles: Sequence[str]
    rooms: dict[str, Sequence[str]]
    ttl: float
