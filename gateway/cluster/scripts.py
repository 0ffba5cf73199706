"""What the nodes keep together in Redis, and the steps that change it.

Under one hash tag, so that one script sees it whole:

``leases``   sorted set: lease → time (ms) until which it is good
``about``    hash: lease → what is known of its node, as JSON
``dying``    sorted set: lease whose time was over → until when somebody is removing what it left
``state``    hash: ``beat`` (when a node was last heard of), ``grace`` (until when nobody is declared dead),
             ``version`` (changes with the leases), ``longest`` (lifetime of tokens, ms)
``revoked``  sorted set: revocation → when it came (ms of Redis)
``when``     hash: revocation → seconds of the revoking node

For each channel with presence (a room, or an organisation as a whole), under a tag of its own:

``totals``   hash: ``u<user>`` → connections on all nodes (``u`` for those without a user), ``v`` the
             number of the last change, ``w`` the time (ms) until which some node wants to be told of changes
``mine``     of each lease, a hash: user → connections on that node

The channels in which a lease has something are a set of their own, written before and cleared after.

Each script that takes several arguments takes them by name: as one of the structs below, in MessagePack, in
which there are no ``bytes``: the reader inside Redis does not know MessagePack's binary type.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.broker.redis.scripts import Script, pack

__all__ = [
    "BEAT",
    "BURY",
    "COUNT",
    "LEAVE",
    "READ",
    "REVOKE",
    "SET",
    "WHERE",
    "BeatCall",
    "ReadCall",
    "RevokeCall",
    "SetCall",
    "pack",
]


class BeatCall(msgspec.Struct):
    """Arguments of BEAT; times are in milliseconds."""

    lease: str
    about: str
    """What the others shall know of the node, as JSON."""
    ttl: int
    """How long a lease is good."""
    quiet: int
    """After a silence of this length Redis was away, and not one node dead."""
    claim: int
    """How long a node may take to remove what a lease left."""
    version: str
    """That is known of the leases."""
    cursor: int
    """Time of the last revocation that is known."""
    longest: int
    """Lifetime of a token."""
    page: int
    """Revocations at once."""


class RevokeCall(msgspec.Struct):
    """Arguments of REVOKE."""

    revocation: str
    at: str
    """Seconds of the node's clock, as text: to Redis a number has fewer digits."""
    longest: int
    """Longest lifetime of a token, in milliseconds."""
    most: int
    """How many are kept."""


class SetCall(msgspec.Struct):
    """Arguments of SET."""

    counts: list[tuple[str, int]]
    """User, and their connections to this node."""


class ReadCall(msgspec.Struct):
    """Arguments of READ."""

    watch: int
    """Milliseconds for which the caller wants to be told of changes, or 0."""
    all: bool
    """False for the version alone."""


_PACKAGE: Final = "gateway.cluster"

BEAT: Final = Script.load(_PACKAGE, "now", "beat")
LEAVE: Final = Script.load(_PACKAGE, "leave")
BURY: Final = Script.load(_PACKAGE, "bury")
REVOKE: Final = Script.load(_PACKAGE, "now", "revoke")
SET: Final = Script.load(_PACKAGE, "now", "users", "set")
READ: Final = Script.load(_PACKAGE, "now", "users", "read")
COUNT: Final = Script.load(_PACKAGE, "users", "count")
WHERE: Final = Script.load(_PACKAGE, "where")
