"""Who is in one watched room, from numbered changes that may come late, twice, or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

__all__ = ["Change", "Roster"]


class Change(NamedTuple):
    """A user came or went; the changes of a room are numbered without holes."""

    version: int
    event: Literal["join", "leave"]
    user: str


class Roster:
    """The users of a room as its watchers were told.

    A change counts when no later one of the same user is known; changes of different users may come in any
    order. A number that is missing shows in ``known`` staying behind, and is mended by reading everything.
    """

    def __init__(self) -> None:
        self.known = 0
        """Every change up to this one is in."""
        self.users: dict[str, int] = {}
        """User → number of the change by which he is known to be there."""
        self._gone: dict[str, int] = {}
        self._ahead: set[int] = set()

    def read(self, version: int, users: Iterable[str]) -> list[Change] | None:
        """Take all of it as it was after change ``version``; returns what is new, None when it is too old."""
        if version < max(self._ahead, default=self.known):
            return None
        present = set(users)
        changes = [Change(version, "leave", user) for user in sorted(self.users.keys() - present)]
        changes += [Change(version, "join", user) for user in sorted(present - self.users.keys())]
        self.users = dict.fromkeys(present, version)
        self.known = version
        self._gone.clear()
        self._ahead.clear()
        return changes

    def take(self, change: Change) -> bool:
        """Take one change; returns whether the watchers are to be told."""
        version, event, user = change
        if version <= self.known or version in self._ahead:
            return False
        later = version < max(self.users.get(user, 0), self._gone.get(user, 0))
        self._ahead.add(version)
        while self.known + 1 in self._ahead:
            self.known += 1
            self._ahead.discard(self.known)
        if not self._ahead:
            self._gone.clear()
        elif event == "leave" and not later:
            self._gone[user] = version
        if later:
            return False
        if event == "leave":
            return self.users.pop(user, None) is not None
        told = user not in self.users
        self.users[user] = version
        return told
