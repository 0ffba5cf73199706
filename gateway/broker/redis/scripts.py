"""What is done inside Redis, in one step each: Lua scripts, their arguments, and the shape of what they keep.

A channel is three keys with one hash tag, so that a cluster keeps them together:

``t:{channel}``    the stream; one entry is one packet ``p``, its id is ``<last seq of the packet>-0``,
                   and ``at`` the time (ms of Redis) at which it was written
``t:{channel}:m``  a hash: ``epoch``, ``base`` (the seq at which that epoch began), ``seq``, ``tag`` (of
                   the last packet), for each writer ``w:<writer>``: its last batch and the answer to it; for
                   each entry of the channel's state ``s:<name>``: its value as JSON, and ``state``: the bytes
                   of all entries
``t:{channel}:i``  a sorted set: message id → seq, to recognise what is published twice

A packet is the same text in the stream and in pub/sub: a head line, then a JSON array of events.
The head is ``epoch first count tag prev total``: the events are numbered from ``first``; ``tag`` names
this packet and ``prev`` the one before it; ``total`` is the bytes of all packets of this order so far.

Each script takes its arguments by name: as one of the structs below, in MessagePack.
There are no ``bytes`` in them: the reader inside Redis does not know MessagePack's binary type.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Final

import msgspec

__all__ = [
    "ACCOUNT",
    "CAST",
    "CHECK",
    "NO_TAG",
    "PUBLISH",
    "READ",
    "RECALL",
    "REMEMBER",
    "ROOM",
    "AccountCall",
    "ChannelBatch",
    "CheckCall",
    "PublishCall",
    "ReadCall",
    "RememberCall",
    "Script",
    "pack",
]

NO_TAG: Final = "-"
"""What stands for the tag of a packet that never was: the one before the first of an epoch."""


@dataclass(frozen=True)
class Script:
    """One Lua script, called by its hash."""

    source: str
    sha: bytes = field(init=False)

    def __post_init__(self) -> None:
        # EVALSHA names scripts by their SHA-1; nothing here is a secret.
        digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest.encode())

    @classmethod
    def load(cls, package: str, *names: str) -> Script:
        """The files ``lua/<name>.lua`` of a package, one after the other."""
        folder = files(package) / "lua"
        return cls("\n".join((folder / f"{name}.lua").read_text("utf-8") for name in names))


class ChannelBatch(msgspec.Struct, array_like=True):
    """What a PUBLISH does in one channel. Unpacked in ``publish.lua`` in this order."""

    keep: int
    """Events kept."""
    bytes: int
    """Bytes kept."""
    age: int
    """Milliseconds kept."""
    window: int
    """Message ids kept."""
    few: int
    """Events up to which the message ids are in the hash."""
    number: int
    """Of the batch."""
    count: int
    effects: list[tuple[int, str, str | None]] | None
    """Number of the event in the batch, from 1; name and value of the entry of the state."""


class PublishCall(msgspec.Struct):
    """Arguments of PUBLISH."""

    writer: str
    newborn: str
    """Epoch for an order that begins."""
    tell: str
    """PUBLISH or SPUBLISH."""
    forget: int
    """Milliseconds after which an unused order is forgotten."""
    state_bytes: int
    entry_bytes: int
    """What an entry of the state counts beside its name and value."""
    channels: list[ChannelBatch]


class CheckCall(msgspec.Struct):
    """Arguments of CHECK."""

    newborn: str
    tell: str
    forget: int
    forget_unused: int
    """Milliseconds after which the order of a channel is forgotten in which nothing was published."""
    known: list[tuple[str, int, str]]
    """Of each channel epoch, seq and tag of the last packet that the caller knows; empty texts if none."""


class ReadCall(msgspec.Struct):
    """Arguments of READ."""

    unused: str
    """What stands for the epoch of a channel that is unused."""
    epoch: str
    seq: int
    back: int
    count: int
    """Packets at most."""


class RememberCall(msgspec.Struct):
    """Arguments of REMEMBER."""

    name: str
    ttl: int
    """Milliseconds."""
    share: int
    """Bytes that the organisation's notes may take."""
    note_bytes: int
    """What a note takes beside its name and value."""


class AccountCall(msgspec.Struct):
    """Arguments of ACCOUNT."""

    channels: list[tuple[str, int, int]]
    """Name of the channel, bytes that it keeps, and milliseconds for which it keeps them."""


pack: Final = msgspec.msgpack.Encoder().encode

_PACKAGE: Final = "gateway.broker.redis"

PUBLISH: Final = Script.load(_PACKAGE, "begin", "publish")
CHECK: Final = Script.load(_PACKAGE, "begin", "check")
READ: Final = Script.load(_PACKAGE, "read")
CAST: Final = Script.load(_PACKAGE, "cast")
REMEMBER: Final = Script.load(_PACKAGE, "remember")
RECALL: Final = Script.load(_PACKAGE, "recall")
ROOM: Final = Script.load(_PACKAGE, "room")
ACCOUNT: Final = Script.load(_PACKAGE, "account")
