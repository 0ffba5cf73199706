"""What a node does about open approvals by itself: deadlines, who waits, and who of an asked role is here.

All of it is found by looking into the database every half second, or at the next deadline if that is sooner.
So it holds whichever node took the request, whether that still lives, and whatever joins the nodes.

A role is asked, not a list of users. Those of its users who are connected are told as soon as a node sees the
approval, the others when they connect; each is noted, so that all nodes together tell each once.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import trio

from gateway.auth.identity import Identity
from gateway.hub.hub import Hub
from gateway.operations.inbox import Inbox
from protocol.errors import ErrorCode, ProtocolError

if TYPE_CHECKING:
    from gateway.config.settings import StoreSettings
    from gateway.store import Pulse

__all__ = ["ApprovalWatch"]

_EVERY: Final = 0.5
"""Seconds between two looks into the database."""
_SOON: Final = 0.1
"""The same after a deadline was met: others may be due, or in another node's hands."""
_ROLES: Final = 1000
"""Open approvals of roles that a node knows of, the newest; who connects finds others in the list only."""
_AT_ONCE: Final = 100
"""Users that one write tells."""
_PIECE: Final = 500
"""Connections that are looked at without giving way."""
_REACHED: Final = 200_000
"""Notes of who was told; beyond it all are dropped, and the database says it again."""
_ARRIVALS: Final = 10_000
"""Users who have just connected and are asked by role; what is more finds it in the list."""


class _Asking:
    """An open approval that asks a role."""

    __slots__ = ("id", "reached", "role")

    def __init__(self, id: int, role: str) -> None:
        self.id = id
        self.role = role
        self.reached: set[str] = set()
        """Users that this node has told, or found told."""


class ApprovalWatch:
    """Run :meth:`run` in one task of a node whose ``inbox`` runs."""

    def __init__(self, hub: Hub, inbox: Inbox, settings: StoreSettings) -> None:
        self._hub = hub
        self._inbox = inbox
        self._settings = settings
        self._waiters: dict[int, set[trio.Event]] = {}
        self._waiting_of: Counter[str] = Counter()
        self._asking: dict[str, dict[int, _Asking]] = {}
        self._arrivals: deque[tuple[str, int, str]] = deque(maxlen=_ARRIVALS)
        self._reached = 0
        self._hurry = trio.Event()
        self._stopping = False
        self.waiting = 0
        """Requests that wait for a decision."""
        self.expired = 0
        """Decided by their deadline, by this node."""

    # --- who waits ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def awaiting(self, org: str, id: int) -> Iterator[trio.Event]:
        """An event that is set when the approval is decided, or when the node stops.

        Raises OVERLOADED when too many wait, SHUTTING_DOWN when the node stops.
        """
        self.check_stopping()
        most = self._settings.approvals_waiting
        if self.waiting >= most or self._waiting_of[org] >= max(1, most // 4):
            raise ProtocolError(
                ErrorCode.OVERLOADED,
                "too many requests wait for decisions",
                retry_after=self._settings.retry_after,
            )
        event = trio.Event()
        self.waiting += 1
        self._waiting_of[org] += 1
        self._waiters.setdefault(id, set()).add(event)
        try:
            yield event
        finally:
            self.waiting -= 1
            self._waiting_of[org] -= 1
            if not self._waiting_of[org]:
                del self._waiting_of[org]
            events = self._waiters[id]
            events.discard(event)
            if not events:
                del self._waiters[id]

    def check_stopping(self) -> None:
        """Raise SHUTTING_DOWN when the node stops: another one answers."""
        if self._stopping:
            raise ProtocolError(
                ErrorCode.SHUTTING_DOWN, "this node is about to stop", retry_after=self._settings.retry_after
            )

    def closed(self, ids: Iterable[int]) -> None:
        """These are decided: whoever waits goes on."""
        for id in ids:
            for event in self._waiters.get(id, ()):
                event.set()

    def stop(self) -> None:
        """The node begins to stop: nobody waits any longer."""
        self._stopping = True
        self.closed(list(self._waiters))

    # --- whom a role means --------------------------------------------------------------------

    def arrived(self, identity: Identity) -> None:
        """Somebody has connected, who may be asked. Returns at once."""
        if not self._asking or identity.user is None:
            return
        for asking in self._asking.get(identity.org, {}).values():
            if asking.role in identity.roles and identity.user not in asking.reached:
                self._arrivals.append((identity.org, asking.id, identity.user))
                self._hurry.set()

    def created(self, org: str, id: int, role: str | None) -> None:
        """This node has stored an approval: have those of its role told who are here. Returns at once."""
        if role is not None:
            asking = self._asking.setdefault(org, {}).setdefault(id, _Asking(id, role))
            self._look_for(org, asking)
        self._hurry.set()

    def _look_for(self, org: str, asking: _Asking) -> None:
        organisation = self._hub.organisations.get(org)
        if organisation is not None:
            # Without a user: all who are here. Those may be many, so that is done piece by piece.
            self._arrivals.append((org, asking.id, ""))

    async def _here(self, org: str, asking: _Asking) -> list[str]:
        organisation = self._hub.organisations.get(org)
        found: dict[str, None] = {}
        for number, connection in enumerate(list(organisation.connections.values()) if organisation else ()):
            identity = connection.identity
            if asking.role in identity.roles and identity.user and identity.user not in asking.reached:
                found[identity.user] = None
            if number % _PIECE == _PIECE - 1:
                await trio.lowlevel.checkpoint()
        return list(found)

    # --- the task -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Look, settle and tell until cancelled."""
        if not self._inbox.enabled:
            return
        while True:
            pause = _EVERY
            self._hurry = trio.Event()
            try:
                pulse = await self._inbox.store.approvals.pulse(list(self._waiters), _ROLES)
                self.closed(pulse.closed)
                self._note_roles(pulse)
                await self._tell_arrivals()
                pause = await self._settle(pulse)
            except ProtocolError:  # the store has logged why
                await trio.sleep(_EVERY)
            with trio.move_on_after(pause):
                await self._hurry.wait()

    async def _settle(self, pulse: Pulse) -> float:
        """Decide what is due; returns the seconds until the next look."""
        if pulse.deadline_ms is None:
            return _EVERY
        remaining = (pulse.deadline_ms - pulse.now_ms) / 1000
        if remaining > 0:
            return min(_EVERY, remaining)
        approvals = self._inbox.store.approvals
        while verdicts := await approvals.settle():
            for verdict in verdicts:
                self.expired += 1
                self.closed([verdict.approval.id])
                self._inbox.deliver(verdict.entries)
        return _SOON

    def _note_roles(self, pulse: Pulse) -> None:
        known, self._asking = self._asking, {}
        for id, org, role in pulse.roles:
            asking = known.get(org, {}).get(id)
            fresh = asking is None
            asking = asking or _Asking(id, role)
            self._asking.setdefault(org, {})[id] = asking
            if fresh:
                self._look_for(org, asking)

    async def _tell_arrivals(self) -> None:
        found: dict[tuple[str, int], dict[str, None]] = {}
        while self._arrivals:
            org, id, user = self._arrivals.popleft()
            found.setdefault((org, id), {})[user] = None
        try:
            for (org, id), users in found.items():
                asking = self._asking.get(org, {}).get(id)
                if asking is not None:
                    await self._tell(org, asking, users)
        except ProtocolError:
            for org, id in found:  # looked for anew when the database is back
                self._asking.get(org, {}).pop(id, None)
            raise

    async def _tell(self, org: str, asking: _Asking, users: Iterable[str]) -> None:
        names = [user for user in users if user and user not in asking.reached]
        if "" in users:
            names = list(dict.fromkeys([*names, *await self._here(org, asking)]))
        for start in range(0, len(names), _AT_ONCE):
            if len(asking.reached) >= self._settings.approvals_reach:
                return
            part = names[start : start + _AT_ONCE]
            asked = await self._inbox.store.approvals.reach(asking.id, part)
            if asked is None:
                return
            self._reached += len(part)
            if self._reached > _REACHED:
                self._reached = 0
                for each in self._asking.values():
                    for other in each.values():
                        other.reached.clear()
            asking.reached.update(part)
            self._inbox.deliver(asked.entries)
