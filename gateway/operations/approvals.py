"""Approvals: a service asks users or a role, one of them decides, or the deadline does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import trio

from gateway.auth.identity import Identity
from gateway.config.settings import StoreSettings
from gateway.hub.hub import Hub
from gateway.operations.approval_watch import ApprovalWatch
from gateway.operations.fields import bad, check_json, check_length, check_text, check_user
from gateway.operations.inbox import Inbox
from gateway.operations.rules import organisation, require_service
from protocol.errors import ErrorCode, ProtocolError
from protocol.names import check_pattern, check_room
from protocol.values import check_value

if TYPE_CHECKING:
    from gateway.store import Approval, Verdict

__all__ = [
    "CHOICES", "MAX_CHOICE", "MAX_CHOICES", "MAX_COMMENT", "MAX_DATA", "MAX_ID", "MAX_MESSAGE", "MAX_PAGE",
    "MAX_TITLE", "MAX_USERS", "MAX_WAIT", "Approvals", "Status",
]  # fmt: skip

Status = Literal["pending", "decided", "expired"]

CHOICES: Final = ("approve", "reject")
"""What is offered unless something else is."""
MAX_USERS: Final = 100
MAX_CHOICES: Final = 10
MAX_CHOICE: Final = 50
"""Characters."""
MAX_TITLE: Final = 200
"""Characters."""
MAX_MESSAGE: Final = 2000
"""Characters."""
MAX_COMMENT: Final = 1000
"""Characters."""
MAX_DATA: Final = 4096
"""Bytes of JSON."""
MAX_ID: Final = 100
"""Bytes."""
MAX_PAGE: Final = 100
MAX_WAIT: Final = 60.0
"""Seconds."""
_MAX_NAME: Final = 200
_DEPTH: Final = 8
_STATUSES: Final = frozenset({"pending", "decided", "expired"})


class Approvals:
    """All raise NOT_FOUND if the setting ``database`` is ``none``; DATABASE_UNAVAILABLE while the database is
    unavailable; OVERLOADED when too much is waiting for it; and TIMEOUT if it is unknown whether the
    change was stored: repeat it with the same ``id``.

    ``address`` and ``connection`` describe the caller, and are recorded with each action.
    """

    __slots__ = ("_conflicts", "_created", "_decided", "_inbox", "_settings", "watch")

    def __init__(self, hub: Hub, inbox: Inbox, settings: StoreSettings) -> None:
        self._inbox = inbox
        self._settings = settings
        self.watch = ApprovalWatch(hub, inbox, settings)
        """Has to run."""
        self._created = 0
        self._decided = 0
        self._conflicts = 0

    @property
    def enabled(self) -> bool:
        """Whether there is a database to store them in."""
        return self._inbox.enabled

    async def create(
        self,
        identity: Identity,
        *,
        title: str,
        users: Sequence[str] | None = None,
        role: str | None = None,
        id: str | None = None,
        message: str | None = None,
        data: Any = None,
        choices: Sequence[str] = CHOICES,
        deadline: float | None = None,
        fallback: str | None = None,
        execution: str | None = None,
        task: str | None = None,
        org: str | None = None,
        address: str | None = None,
        connection: str | None = None,
    ) -> dict[str, Any]:
        """Ask 1 to ``MAX_USERS`` users or a role: stored when this returns, published at once.

        Returns the approval. ``deadline`` is in seconds from now, at most ``store.approvals_longest``;
        without a ``fallback`` the approval expires then. The same ``id`` in the organisation returns the
        first one in its present state.

        Raises FORBIDDEN without the role service; WRONG_ORGANISATION; MISSING_FIELD, BAD_FIELD, TOO_LARGE;
        TOO_MANY_APPROVALS.
        """
        require_service(identity, "asking for an approval")
        org = organisation(identity, org)
        self._check_asked(users, role)
        check_text("title", title, MAX_TITLE)
        if id is not None:
            check_pattern(id, field="id", max_bytes=MAX_ID)
            if "/" in id:
                raise bad("id", "must not contain /, since it is part of a path")
        if message is not None:
            check_length("message", message, MAX_MESSAGE)
            check_value(message, "message")
        check_json("data", data, MAX_DATA, depth=_DEPTH)
        _check_choices(choices)
        self._check_deadline(deadline, fallback, choices)
        if execution is not None:
            check_text("execution", execution, _MAX_NAME)
            check_room(f"execution:{execution}")
        if task is not None:
            check_text("task", task, _MAX_NAME)
        asked = await self._inbox.store.approvals.create(
            org, users=users or (), role=role, title=title, message=message, data=data, choices=choices,
            deadline=deadline, fallback=fallback, execution=execution, task=task, name=id,
            sender=identity.user, address=address, connection=connection,
        )  # fmt: skip
        self._created += 1
        self._inbox.deliver(asked.entries)
        approval = asked.approval
        if approval.decided_ms is None:
            self.watch.created(org, approval.id, approval.role)
        return approval.as_data()

    async def get(
        self,
        identity: Identity,
        id: str,
        *,
        wait: float = 0.0,
        audit: bool = False,
        org: str | None = None,
    ) -> dict[str, Any]:
        """The approval in its present state; while it is pending, waits up to ``wait`` seconds (0 to
        ``MAX_WAIT``) for its end.

        With ``audit``, for services, including all actions with user, time and origin. Raises NOT_FOUND;
        FORBIDDEN if the caller is neither asked nor a service; OVERLOADED when too many wait; SHUTTING_DOWN
        while waiting on a stopping node.
        """
        org = organisation(identity, org)
        if not 0 <= wait <= MAX_WAIT:
            raise bad("wait", f"must be from 0 to {MAX_WAIT:g} seconds")
        if audit:
            require_service(identity, "the audit: this")
        approval = await self._visible(identity, org, id)
        if wait and approval.decided_ms is None:
            with self.watch.awaiting(org, approval.id) as closed:
                # Looked at again: it may have been decided before somebody waited for that.
                approval = await self._load(org, id)
                if approval.decided_ms is None:
                    with trio.move_on_after(wait):
                        await closed.wait()
                        self.watch.check_stopping()
                    approval = await self._load(org, id)
        shown = approval.as_data()
        if audit:
            shown["audit"] = await self._inbox.store.approvals.audit(approval.id)
        return shown

    async def list(
        self,
        identity: Identity,
        *,
        status: Status | None = None,
        user: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        org: str | None = None,
    ) -> dict[str, Any]:
        """``approvals`` that ask the caller, by name or by a role; at most ``limit``, newest first.

        A service gets those of the whole organisation, or those that ask ``user`` by name. ``next`` is the
        cursor of the next page, if there is one. Raises FORBIDDEN for another user's without the role
        service, BAD_FIELD for a cursor of another list.
        """
        org = organisation(identity, org)
        if not 1 <= limit <= MAX_PAGE:
            raise bad("limit", f"1 to {MAX_PAGE} are allowed")
        if status is not None and status not in _STATUSES:
            raise bad("status", f"one of {', '.join(sorted(_STATUSES))}")
        own = user is None or (user == identity.user and org == identity.org)
        if not own:
            require_service(identity, "another user's approvals: this")
        if user is not None:
            check_user(user, "user")
        elif not identity.is_service:
            user = _named(identity)
        found, following = await self._inbox.store.approvals.list(
            org,
            user=user,
            roles=identity.roles if own else (),
            status=status,
            limit=limit,
            cursor=cursor,
        )
        answer: dict[str, Any] = {"approvals": [each.as_data() for each in found]}
        if following is not None:
            answer["next"] = following
        return answer

    async def decide(
        self,
        identity: Identity,
        id: str,
        *,
        choice: str,
        comment: str | None = None,
        org: str | None = None,
        address: str | None = None,
        connection: str | None = None,
    ) -> dict[str, Any]:
        """Decide as an asked user; returns the approval.

        Raises NOT_FOUND; FORBIDDEN if the caller is not asked; BAD_FIELD for a choice that is not offered;
        CONFLICT if it was decided before or its deadline has passed: ``decision`` has the choice and the
        user, ``approval`` the whole.
        """
        org = organisation(identity, org)
        user = _named(identity)
        if org != identity.org:
            raise ProtocolError(ErrorCode.FORBIDDEN, "only users of its organisation can decide")
        check_text("choice", choice, MAX_CHOICE)
        if comment is not None:
            check_length("comment", comment, MAX_COMMENT)
            check_value(comment, "comment")
        verdict = await self._inbox.store.approvals.decide(
            org,
            _checked(id),
            user=user,
            roles=identity.roles,
            choice=choice,
            comment=comment,
            address=address,
            connection=connection,
        )
        self.watch.closed([verdict.approval.id])
        self._inbox.deliver(verdict.entries)
        if not verdict.won:
            self._conflicts += 1
            raise _conflict(verdict)
        self._decided += 1
        return verdict.approval.as_data()

    def measures(self) -> dict[str, tuple[str, float]]:
        """For the metrics: name → what it is, and its value now; a name in ``_total`` is a counter's."""
        if not self.enabled:
            return {}
        return {
            "approvals_waiting": ("Requests that wait for a decision", self.watch.waiting),
            "approvals_created_total": ("Approvals asked for on this node", self._created),
            "approvals_decided_total": ("Approvals decided by users on this node", self._decided),
            "approvals_conflicts_total": ("Decisions that came too late", self._conflicts),
            "approvals_expired_total": (
                "Approvals that this node ended at their deadline",
                self.watch.expired,
            ),
        }

    async def _visible(self, identity: Identity, org: str, id: str) -> Approval:
        approval = await self._load(org, id)
        if identity.is_service:
            return approval
        if identity.user is not None:
            if approval.role in identity.roles or identity.user in approval.users:
                return approval
            if approval.role and await self._inbox.store.approvals.is_asked(approval.id, identity.user):
                return approval
        raise ProtocolError(ErrorCode.FORBIDDEN, "this user is not asked for this approval")

    async def _load(self, org: str, id: str) -> Approval:
        approval = await self._inbox.store.approvals.get(org, _checked(id))
        if approval is None:
            raise ProtocolError(ErrorCode.NOT_FOUND, "there is no such approval")
        return approval

    def _check_asked(self, users: Sequence[str] | None, role: str | None) -> None:
        if users is None and role is None:
            raise ProtocolError(ErrorCode.MISSING_FIELD, "users or role: one of them must be given")
        if users is not None and role is not None:
            raise bad("users and role", "only one of them may be given")
        if role is not None:
            check_text("role", role, _MAX_NAME)
        if users is not None:
            if not 1 <= len(users) <= MAX_USERS:
                raise bad("users", f"1 to {MAX_USERS} are allowed")
            for user in users:
                check_user(user, "users")

    def _check_deadline(self, deadline: float | None, fallback: str | None, choices: Sequence[str]) -> None:
        if deadline is not None:
            if not (math.isfinite(deadline) and deadline > 0):
                raise bad("deadline", "must be in the future: seconds from now")
            if deadline > self._settings.approvals_longest:
                raise bad("deadline", f"at most {self._settings.approvals_longest:g} seconds")
        if fallback is not None:
            if deadline is None:
                raise ProtocolError(ErrorCode.MISSING_FIELD, "deadline: is missing; a fallback needs one")
            if fallback not in choices:
                raise bad("fallback", "must be one of the choices")


def _named(identity: Identity) -> str:
    if identity.user is None:
        raise ProtocolError(ErrorCode.FORBIDDEN, "this token names no user")
    return identity.user


def _checked(id: str) -> str:
    try:
        return check_pattern(id, field="id", max_bytes=MAX_ID)
    except ProtocolError:
        raise ProtocolError(ErrorCode.NOT_FOUND, "there is no such approval") from None


def _check_choices(choices: Sequence[str]) -> None:
    if not 1 <= len(choices) <= MAX_CHOICES:
        raise bad("choices", f"1 to {MAX_CHOICES} are allowed")
    for choice in choices:
        check_text("choices", choice, MAX_CHOICE)
    if len(set(choices)) < len(choices):
        raise bad("choices", "must differ")


def _conflict(verdict: Verdict) -> ProtocolError:
    approval = verdict.approval
    decision = approval.decision
    details: dict[str, Any] = {"approval": approval.as_data()}
    if decision is None:
        return ProtocolError(ErrorCode.CONFLICT, "its deadline has passed", details=details)
    by = f"by {approval.decided_by}" if approval.decided_by is not None else "at its deadline"
    return ProtocolError(
        ErrorCode.CONFLICT,
        f"it has been decided {by}: {approval.choice}",
        details={"decision": decision, **details},
    )
