"""Each thing that can be asked, as a request and what its answer means. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote

import msgspec

from gateway.publisher.results import BatchResult, Published, SentTo, Token, problem

__all__ = [
    "ApprovalOptions",
    "Call",
    "ExecutionChanges",
    "ExecutionOptions",
    "NotifyOptions",
    "PublishOptions",
    "SendOptions",
    "TokenOptions",
    "batch",
    "create_approval",
    "create_execution",
    "create_token",
    "decide",
    "get_approval",
    "get_execution",
    "notify",
    "operation_of_publish",
    "operation_of_send",
    "publish",
    "revoke",
    "send_to_connection",
    "send_to_user",
    "send_to_users",
    "update_execution",
]

T = TypeVar("T")

LONGEST_WAIT: Final = 30.0
"""Seconds for which the gateway is asked to wait at a time."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request. ``repeatable``: done twice it is the same as done once."""

    method: str
    path: str
    read: Callable[[Any], T]
    body: dict[str, Any] | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    patience: float = 0.0
    """Seconds that the answer may take on top of the usual."""
    conflict: Callable[[dict[str, Any]], Any] | None = None
    """From the 409 to a repetition: what the first one did, or None when it is another's."""


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


def _mid(options: Mapping[str, Any]) -> dict[str, Any]:
    """With a message id in any case: it is what makes a repetition safe."""
    return {"mid": uuid.uuid4().hex, **options}


def _row(answer: Any) -> dict[str, Any]:
    return msgspec.convert(answer, dict[str, Any])


def _to(kind: type[T]) -> Callable[[Any], T]:
    return lambda answer: msgspec.convert(answer, kind)


def publish(room: str | None, event: str, data: Any, options: Mapping[str, Any]) -> Call[Published]:
    """To a room, or with None to the whole organisation."""
    return Call("POST", "/broadcast", _to(Published), _event(event, data, options, room=room))


def _event(event: str, data: Any, options: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    wanted = {"event": event, "data": data, **more, **_mid(options)}
    return {name: value for name, value in wanted.items() if value is not None or name == "data"}


def send_to_user(user: str, event: str, data: Any, options: Mapping[str, Any]) -> Call[SentTo]:
    """To one user, wherever they are connected, now or later."""
    path = f"/users/{quote(user, safe='')}/send"
    repeatable = not options.get("ephemeral", False)  # it has no place, so the same id is not known again
    return Call("POST", path, _to(SentTo), _event(event, data, options), repeatable=repeatable)


def send_to_users(
    users: Iterable[str], event: str, data: Any, options: Mapping[str, Any]
) -> Call[dict[str, Any]]:
    """To up to 1,000 users."""
    return Call("POST", "/users/send", _row, _event(event, data, options, users=list(users)))


def send_to_connection(connection: str, event: str, data: Any, options: Mapping[str, Any]) -> Call[SentTo]:
    """To one connection, which has no order."""
    path = f"/connections/{quote(connection, safe='')}/send"
    return Call("POST", path, _to(SentTo), _event(event, data, options), repeatable=False)


def notify(
    title: str,
    message: str,
    user: str | None,
    users: Iterable[str] | None,
    options: Mapping[str, Any],
) -> Call[dict[str, str]]:
    """Stored, and told at once; the answer is user → id. Raises ValueError unless one of them is named."""
    if (user is None) == (users is None):
        raise ValueError("name a user or users")
    whom: dict[str, Any] = {"users": list(users)} if users is not None else {"user": user}
    body = {"type": "info", "title": title, "message": message, **whom, **_mid(options)}

    def ids(answer: Any) -> dict[str, str]:
        one = answer.get("id")
        return msgspec.convert({user: one} if one is not None else answer.get("ids"), dict[str, str])

    return Call("POST", "/notifications", ids, body)


def create_execution(agent: str, options: Mapping[str, Any]) -> Call[dict[str, Any]]:
    """A new execution; its id is made here, so that a repetition finds the first."""
    body = {"id": uuid.uuid4().hex, "agent": agent, **options}

    def made_before(found: dict[str, Any]) -> Any:
        row = found.get("execution")
        return row if isinstance(row, dict) and row.get("agent") == agent else None

    return Call("POST", "/executions", _row, body, conflict=made_before)


def update_execution(id: str, changes: Mapping[str, Any]) -> Call[dict[str, Any]]:
    """The row afterwards."""

    def done_before(found: dict[str, Any]) -> Any:
        row = found.get("execution")
        wanted = {name: value for name, value in changes.items() if name not in ("org", "version", "tools")}
        same = isinstance(row, dict) and all(row.get(name) == value for name, value in wanted.items())
        return row if same else None

    return Call("PATCH", f"/executions/{quote(id, safe='')}", _row, dict(changes), conflict=done_before)


def get_execution(id: str, org: str | None) -> Call[dict[str, Any]]:
    """The row, with its updates."""
    return Call("GET", f"/executions/{quote(id, safe='')}", _row, query=_query(org=org))


def create_approval(title: str, options: Mapping[str, Any]) -> Call[dict[str, Any]]:
    """Ask; the same id gets the first one as it stands now. Raises ValueError unless one of them is named."""
    if ("users" in options) == ("role" in options):
        raise ValueError("name users or a role")
    return Call("POST", "/approvals", _row, {"id": uuid.uuid4().hex, "title": title, **options})


def get_approval(id: str, wait: float, org: str | None) -> Call[dict[str, Any]]:
    """As it stands, or after at most ``wait`` seconds when it is decided."""
    query = _query(org=org, wait=f"{wait:g}" if wait else None)
    return Call("GET", f"/approvals/{quote(id, safe='')}", _row, query=query, patience=wait)


def decide(id: str, choice: str, comment: str | None) -> Call[dict[str, Any]]:
    """As the user of the token."""
    body = {"choice": choice} if comment is None else {"choice": choice, "comment": comment}

    def made_before(found: dict[str, Any]) -> Any:
        decision = found.get("decision")
        if not isinstance(decision, dict) or decision.get("fallback") or decision.get("choice") != choice:
            return None
        return found.get("approval")

    return Call("POST", f"/approvals/{quote(id, safe='')}/decide", _row, body, conflict=made_before)


def create_token(options: Mapping[str, Any]) -> Call[Token]:
    """A token for somebody else."""
    return Call("POST", "/auth/token", _to(Token), dict(options))


def revoke(jti: str | None, user: str | None, org: str | None) -> Call[dict[str, Any]]:
    """Of a token, a user or an organisation."""
    return Call("POST", "/auth/revoke", _row, _query(jti=jti, user=user, org=org))


def operation_of_publish(
    room: str | None, event: str, data: Any, options: Mapping[str, Any]
) -> dict[str, Any]:
    """One operation of a batch."""
    return {"op": "broadcast", **_event(event, data, options, room=room)}


def operation_of_send(user: str, event: str, data: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """One operation of a batch."""
    return {"op": "send", **_event(event, data, options, user=user)}


def batch(operations: Sequence[Mapping[str, Any]]) -> Call[list[BatchResult]]:
    """Done in their order; one that fails does not stop the others."""

    def results(answer: Any) -> list[BatchResult]:
        found = msgspec.convert(answer["results"], list[dict[str, Any]])
        return [_result(each) for each in found]

    ops = [_mid(each) for each in operations]
    repeatable = not any(each.get("ephemeral") or "connection" in each for each in ops)
    return Call("POST", "/batch", results, {"operations": ops}, repeatable=repeatable)


def _result(answer: dict[str, Any]) -> BatchResult:
    if answer.get("problem") is not None:
        return BatchResult(error=problem(answer["status"], answer["problem"]))
    return msgspec.convert({name: value for name, value in answer.items() if name != "status"}, BatchResult)


def _query(**fields: str | None) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value is not None}
