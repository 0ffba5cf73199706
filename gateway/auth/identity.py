"""Who a connection is and what it may do in which room."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntFlag
from typing import ClassVar, Final
from weakref import WeakValueDictionary

from protocol.cache import Cache, Family
from protocol.patterns import compile_pattern

__all__ = ["PERMISSIONS", "Grants", "Identity", "Permission"]

ROOM_CACHE: Final = 256
"""Rooms whose answer one ``Grants`` remembers; small, since every distinct set of claims has its own."""
LONGEST_NAME: Final = 256
"""Characters of the longest name that may be remembered: that of a room, or of a user behind ``user:``."""
_ANSWERED: Final = Family[tuple[bool, ...]](
    "grants", max_bytes=8 << 20, max_entries=ROOM_CACHE, max_key=LONGEST_NAME
)


class Permission(IntFlag):
    """One thing a token may do in the rooms that a pattern names."""

    JOIN = 1
    PUBLISH = 2
    PRESENCE = 4
    HISTORY = 8

    @classmethod
    def parse(cls, names: Iterable[str]) -> int:
        """The bits of ``names`` (``join``, ``publish``, …); raises ``KeyError`` with an unknown name."""
        bits = 0
        for name in names:
            bits |= _BITS[name]
        return bits


_BITS: Final = {permission.name.lower(): int(permission) for permission in Permission if permission.name}
PERMISSIONS: Final = tuple(_BITS)
"""The names that claims use."""

_STARS: Final = re.compile(r"\*+")

# allows() runs for every publish. Arithmetic on IntFlag costs ten times a tuple index, so the answers for all
# sixteen sets of bits are laid out once: _ANSWERS[granted][asked].
_ANSWERS: Final = tuple(tuple(granted & asked == asked for asked in range(16)) for granted in range(16))


class Grants:
    """Permissions by room pattern; a room's permissions are the union over the patterns that match it.

    Made with ``of``, which hands out one object for equal contents, so that thousands
    of connections with the same claims share one set of rules and one cache.
    """

    __slots__ = ("__weakref__", "_cache", "_matchers", "rules")

    ALL: ClassVar[Grants]
    """Everything in the own organisation: a service's."""

    _shared: ClassVar[WeakValueDictionary[frozenset[tuple[str, int]], Grants]] = WeakValueDictionary()

    def __init__(self, rules: frozenset[tuple[str, int]]) -> None:
        self.rules = rules
        self._cache: Cache[tuple[bool, ...]] = _ANSWERED.new()
        self._matchers: tuple[tuple[Callable[[str], bool], int], ...] = tuple(
            (_matcher(pattern), bits) for pattern, bits in sorted(rules)
        )

    @classmethod
    def of(cls, rooms: Mapping[str, Iterable[str]]) -> Grants:
        """The shared grants for ``rooms`` (pattern → permission names).

        Raises ``KeyError`` with the first unknown permission name; patterns are the caller's to check.
        """
        merged: dict[str, int] = {}
        for pattern, names in rooms.items():
            pattern = _STARS.sub("*", pattern)
            merged[pattern] = merged.get(pattern, 0) | Permission.parse(names)
        rules = frozenset(merged.items())
        grants = cls._shared.get(rules)
        if grants is None:
            grants = cls._shared[rules] = cls(rules)
        return grants

    def allows(self, room: str, permission: Permission) -> bool:
        """Tell whether every bit of ``permission`` is granted in ``room``."""
        if len(room) > LONGEST_NAME:
            return self._decide(room)[permission]
        try:
            return self._cache[room][permission]
        except KeyError:
            return self._decide(room)[permission]

    def allows_target(self, target: str) -> bool:
        """Tell whether one may send to ``target``, which is ``user:NAME`` or ``connection:ID``.

        Granted by its name or by a pattern of its kind (``user:*``); ``*`` covers rooms only.
        """
        kind = target.partition(":")[0] + ":"
        return self is Grants.ALL or any(
            bits & Permission.PUBLISH and pattern.startswith(kind) and _matcher(pattern)(target)
            for pattern, bits in self.rules
        )

    def _decide(self, room: str) -> tuple[bool, ...]:
        granted = 0
        for matches, bits in self._matchers:
            if granted | bits != granted and matches(room):
                granted |= bits
        if (room == "executions" or room.startswith("execution:")) and self is not Grants.ALL:
            granted &= ~Permission.PUBLISH  # what the gateway and services say there must not be forged
        answers = _ANSWERS[granted]
        if granted:  # refusals leave nothing behind
            self._cache[room] = answers
        return answers

    def __repr__(self) -> str:
        return f"Grants({dict(sorted(self.rules))})"


def _matcher(pattern: str) -> Callable[[str], bool]:
    """The test whether a room matches; ``all`` is the name of a room here, not a pattern."""
    return pattern.__eq__ if "*" not in pattern else compile_pattern(pattern)


# Made apart: a member's "*" has equal rules, and is less.
Grants.ALL = Grants(frozenset({("*", Permission.parse(PERMISSIONS))}))


@dataclass(frozen=True, slots=True)
class Identity:
    """What a verified token says. Times are seconds since 1970 UTC."""

    org: str
    user: str | None
    roles: frozenset[str]
    grants: Grants
    expires: float | None = None
    jti: str | None = None
    issued_at: float | None = None
    family: tuple[str, ...] = ()
    """Ids of the tokens that this one was refreshed from: the first one and the latest."""
    meta: bytes = b""
    """A map of the application's own, shown with the connection: JSON, or empty."""

    @property
    def is_service(self) -> bool:
        """A backend of the organisation: may do everything inside it."""
        return "service" in self.roles or "admin" in self.roles

    @property
    def is_admin(self) -> bool:
        """May also name another organisation."""
        return "admin" in self.roles
