"""Each thing that can be asked, as a request and what its answer means. Pure.

The publishers' methods are made of these functions (``methods``): they take the same, and have the same text.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar, Unpack
from urllib.parse import quote

import msgspec

from gateway.publisher.options import (
    ApprovalOptions,
    ExecutionChanges,
    ExecutionOptions,
    NotifyOptions,
    PublishOptions,
    SendOptions,
    TokenOptions,
)
from gateway.publisher.results import BatchResult, Published, SentTo, Token, problem

__all__ = [
    "LONGEST_WAIT",
    "Call",
    "batch",
    "broadcast",
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


def _mid(options: Mapping[str, Any]) -> dict[str, Any]:
    """With a message id in any case: it is what makes a repetition safe."""
    return {"mid": uuid.uuid4().hex, **options}


def _row(answer: Any) -> dict[str, Any]:
    return msgspec.convert(answer, dict[str, Any])


def _to(kind: type[T]) -> Callable[[Any], T]:
    return lambda answer: msgspec.convert(answer, kind)


def publish(
    room: str | None, event: str, data: Any = None, **options: Unpack[PublishOptions]
) -> Call[Published]:
    """Publish to ``room``, or with None to the whole organisation; returns the place that the event got.

    Safe to repeat: give the same ``mid`` when you try again yourself.
    """
    return Call("POST", "/broadcast", _to(Published), _event(event, data, options, room=room))


def broadcast(event: str, data: Any = None, **options: Unpack[PublishOptions]) -> Call[Published]:
    """Publish to the whole organisation (role service or admin)."""
    return publish(None, event, data, **options)


def _event(event: str, data: Any, options: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    wanted = {"event": event, "data": data, **more, **_mid(options)}
    return {name: value for name, value in wanted.items() if value is not None or name == "data"}


def send_to_user(user: str, event: str, data: Any = None, **options: Unpack[SendOptions]) -> Call[SentTo]:
    """Send to one user, on all their connections; kept for who comes later unless ``ephemeral``."""
    path = f"/users/{quote(user, safe='')}/send"
    repeatable = not options.get("ephemeral", False)  # it has no place, so the same id is not known again
    return Call("POST", path, _to(SentTo), _event(event, data, options), repeatable=repeatable)


def send_to_users(
    users: Iterable[str], event: str, data: Any = None, **options: Unpack[SendOptions]
) -> Call[dict[str, Any]]:
    """Send to up to 1,000 users; the answer is ``{mid, users: {user: {seq, epoch}}}``."""
    return Call("POST", "/users/send", _row, _event(event, data, options, users=list(users)))


def send_to_connection(
    connection: str, event: str, data: Any = None, **options: Unpack[SendOptions]
) -> Call[SentTo]:
    """Send to one connection; never repeated by itself once it may have arrived."""
    path = f"/connections/{quote(connection, safe='')}/send"
    return Call("POST", path, _to(SentTo), _event(event, data, options), repeatable=False)


def notify(
    title: str,
    message: str,
    *,
    user: str | None = None,
    users: Iterable[str] | None = None,
    **options: Unpack[NotifyOptions],
) -> Call[dict[str, str]]:
    """Create a notification for ``user``, or one for each of up to 1,000 ``users``; returns user → id.

    Raises ValueError unless exactly one of the two is named.
    """
    if (user is None) == (users is None):
        raise ValueError("name a user or users")
    whom: dict[str, Any] = {"users": list(users)} if users is not None else {"user": user}
    body = {"type": "info", "title": title, "message": message, **whom, **_mid(options)}

    def ids(answer: Any) -> dict[str, str]:
        one = answer.get("id")
        return msgspec.convert({user: one} if one is not None else answer.get("ids"), dict[str, str])

    return Call("POST", "/notifications", ids, body)


def create_execution(agent: str, **options: Unpack[ExecutionOptions]) -> Call[dict[str, Any]]:
    """Report an execution that begins, or will; returns the row."""
    # The id is made here, so that a repetition finds the first.
    body: dict[str, Any] = {"id": uuid.uuid4().hex, "agent": agent, **options}

    def made_before(found: dict[str, Any]) -> Any:
        row = found.get("execution")
        return row if isinstance(row, dict) and row.get("agent") == agent else None

    return Call("POST", "/executions", _row, body, conflict=made_before)


def update_execution(id: str, **changes: Unpack[ExecutionChanges]) -> Call[dict[str, Any]]:
    """Report what has changed (nothing: a heartbeat); returns the row afterwards.

    Raises Refused with status 409, and the row as ``problem["execution"]``, for a transition that is not
    allowed and for a ``version`` that is not the latest.
    """

    def done_before(found: dict[str, Any]) -> Any:
        row = found.get("execution")
        wanted = {name: value for name, value in changes.items() if name not in ("org", "version", "tools")}
        same = isinstance(row, dict) and all(row.get(name) == value for name, value in wanted.items())
        return row if same else None

    return Call("PATCH", f"/executions/{quote(id, safe='')}", _row, dict(changes), conflict=done_before)


def get_execution(id: str, *, org: str | None = None) -> Call[dict[str, Any]]:
    """Return one execution with its ``updates``."""
    return Call("GET", f"/executions/{quote(id, safe='')}", _row, query=_query(org=org))


def create_approval(title: str, **options: Unpack[ApprovalOptions]) -> Call[dict[str, Any]]:
    """Ask ``users``, or whoever has ``role``, for an approval; returns it as it stands, ``pending``.

    With the ``id`` of an earlier one it returns that, as it stands now. Raises ValueError unless exactly one
    of ``users`` and ``role`` is named.
    """
    if ("users" in options) == ("role" in options):
        raise ValueError("name users or a role")
    return Call("POST", "/approvals", _row, {"id": uuid.uuid4().hex, "title": title, **options})


def get_approval(id: str, *, wait: float = 0.0, org: str | None = None) -> Call[dict[str, Any]]:
    """Return an approval as it stands, or as soon as it is decided, within ``wait`` (0 to 60) seconds."""
    query = _query(org=org, wait=f"{wait:g}" if wait else None)
    return Call("GET", f"/approvals/{quote(id, safe='')}", _row, query=query, patience=wait)


def decide(id: str, choice: str, *, comment: str | None = None) -> Call[dict[str, Any]]:
    """Decide as the user of the token.

    Raises Refused with status 409, and the ``problem["decision"]``, when it was decided before.
    """
    body = {"choice": choice} if comment is None else {"choice": choice, "comment": comment}

    def made_before(found: dict[str, Any]) -> Any:
        decision = found.get("decision")
        if not isinstance(decision, dict) or decision.get("fallback") or decision.get("choice") != choice:
            return None
        return found.get("approval")

    return Call("POST", f"/approvals/{quote(id, safe='')}/decide", _row, body, conflict=made_before)


def create_token(**options: Unpack[TokenOptions]) -> Call[Token]:
    """Issue a token (role service or admin)."""
    return Call("POST", "/auth/token", _to(Token), dict(options))


def revoke(
    *, jti: str | None = None, user: str | None = None, org: str | None = None
) -> Call[dict[str, Any]]:
    """Revoke a token by its ``jti``, or all of a user or an organisation; open connections are closed."""
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
    """Do up to 100 operations of ``POST /batch`` in one request: ``{"op": "broadcast", "event": …}``.

    One that fails does not stop the others: each has its own result.
    """

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
