"""What the Python peers share: the command line, and who is in which room.

Commands are parsed and events encoded with msgspec, the fastest there is, and an event is
encoded once for all of its receivers, so that the libraries themselves are compared.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

Member = TypeVar("Member")


@dataclass(frozen=True)
class Options:
    """The port to listen on (loopback only), and whether to echo instead of serving rooms.

    ``redis`` is the address of the Redis to share with others, for a peer that can; ``tls`` a file with key
    and certificate, for one that can.
    """

    port: int
    echo: bool
    redis: str | None
    tls: str | None
    host: str = "127.0.0.1"


def options() -> Options:
    """Read the command line of a peer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--echo", action="store_true")
    parser.add_argument("--redis")
    parser.add_argument("--tls")
    return Options(**vars(parser.parse_args()))


class Command(msgspec.Struct):
    """One message of a client: a join, or an event to publish."""

    join: str | None = None
    room: str = ""
    event: str = ""
    data: Any = None


class Event(msgspec.Struct):
    """What the members of a room get."""

    room: str
    event: str
    data: Any


_decode = msgspec.json.Decoder(Command).decode
_encode = msgspec.json.Encoder().encode


class Rooms(Generic[Member]):
    """Members by room, and what a client's message means for them."""

    def __init__(self) -> None:
        self._members: defaultdict[str, set[Member]] = defaultdict(set)

    def handle(self, sender: Member, message: bytes | str) -> tuple[bytes, set[Member]]:
        """Do what ``message`` asks for; return what to send now, and to whom."""
        command = _decode(message)
        if command.join is not None:
            self._members[command.join].add(sender)
            return _encode({"joined": command.join}), {sender}
        return _encode(Event(command.room, command.event, command.data)), self._members[command.room]

    def forget(self, member: Member) -> None:
        """Take ``member`` out of every room."""
        for members in self._members.values():
            members.discard(member)
