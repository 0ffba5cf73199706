"""The typed names of channels: what they are is passed along with them, never guessed from their text.

No name of an organisation, a user, a room or a connection holds U+0000, so no two channels have one text, and
none can reach into another's.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from typing import Final

__all__ = [
    "Channel",
    "Kind",
    "connection_channel",
    "line_channel",
    "organisation_channel",
    "presence_channel",
    "room_channel",
    "stored_channel",
    "user_channel",
]

_CACHED: Final = 4096
"""Channels of rooms and users that are kept by name, at most 2 KB each."""
_LONGEST: Final = 256
"""Characters of a user's name under which its channel is kept; names of rooms were checked before."""


class Kind(Enum):
    """What a channel reaches."""

    ROOM = "r"
    ORGANISATION = "o"
    USER = "u"
    CONNECTION = "c"
    PRESENCE = "p"
    LINE = ""


_ORDERED: Final = frozenset({Kind.ROOM, Kind.ORGANISATION, Kind.USER})
_TO: Final = {Kind.USER: "user", Kind.CONNECTION: "connection"}


class Channel(str):
    """A channel: as text its unique name, under which it is looked up and kept. Immutable, like any text."""

    __slots__ = ("kind", "name", "ordered", "org", "to")

    kind: Kind
    org: str
    name: str
    """Of the room, the user or the connection; of presence that of its channel; empty for an organisation."""
    ordered: bool
    """Its events may have a place: not what is sent to a connection, nor presence."""
    to: str | None
    """What the envelope says of whom it is for; None for rooms and organisations."""

    def __new__(cls, kind: Kind, org: str, name: str, text: str) -> Channel:
        """``text`` must be different for each kind, organisation and name: use the functions below."""
        self = super().__new__(cls, text)
        self.kind = kind
        self.org = org
        self.name = name
        self.ordered = kind in _ORDERED
        self.to = _TO.get(kind)
        return self


@lru_cache(_CACHED)
def room_channel(org: str, room: str) -> Channel:
    """The channel of a room."""
    return Channel(Kind.ROOM, org, room, f"{org}\0r\0{room}")


def organisation_channel(org: str) -> Channel:
    """The channel that reaches a whole organisation."""
    return Channel(Kind.ORGANISATION, org, "", f"{org}\0o")


def user_channel(org: str, user: str) -> Channel:
    """The channel that reaches all connections of one user."""
    if len(user) > _LONGEST:  # no token names such a user, but a sender may
        return Channel(Kind.USER, org, user, f"{org}\0u\0{user}")
    return _user_channel(org, user)


@lru_cache(_CACHED)
def _user_channel(org: str, user: str) -> Channel:
    return Channel(Kind.USER, org, user, f"{org}\0u\0{user}")


def connection_channel(org: str, connection: str) -> Channel:
    """What is sent to one connection; no broker carries it."""
    return Channel(Kind.CONNECTION, org, connection, f"{org}\0c\0{connection}")


def presence_channel(channel: Channel) -> Channel:
    """The channel in which nodes tell each other who comes to and goes from ``channel``."""
    return Channel(Kind.PRESENCE, channel.org, channel.name, f"{channel}\0p")


def line_channel(name: str) -> Channel:
    """What nodes tell each other under ``name``; no organisation's name is empty."""
    return Channel(Kind.LINE, "", name, f"\0{name}")


def stored_channel(text: str) -> Channel:
    """The channel of an order whose text was kept outside; raises ``ValueError``."""
    match text.split("\0"):
        case [org, "r", room]:
            return room_channel(org, room)
        case [org, "o"]:
            return organisation_channel(org)
        case [org, "u", user]:
            return user_channel(org, user)
    raise ValueError("not the text of a channel that has an order")
