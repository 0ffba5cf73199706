"""From a reply on the wire to what a command returns. Pure."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from gateway.client.ended import seconds
from gateway.client.errors import CommandError, UnexpectedReply
from gateway.client.messages import Event, Filter, HistoryPage, Joined, Presence, Published, Refreshed, Sent
from gateway.client.rooms import OWN_NAMES
from protocol.envelope import Envelope
from protocol.errors import ErrorCode

__all__ = [
    "command_error",
    "filter_of",
    "history",
    "joined",
    "presence",
    "published",
    "refreshed",
    "resumed",
    "sent",
    "went_on",
]

T = TypeVar("T")


def _convert(value: Any, type: type[T]) -> T:
    try:
        return msgspec.convert(value, type)
    except msgspec.ValidationError as error:
        raise UnexpectedReply(str(error)) from error


def _data(reply: Envelope) -> dict[str, Any]:
    return _convert({} if reply.data is None else reply.data, dict[str, Any])


def command_error(reply: Envelope) -> CommandError:
    """The exception for an ``error`` envelope."""
    data = reply.data if isinstance(reply.data, dict) else {}
    code = ErrorCode.INTERNAL if reply.code is None else reply.code
    return CommandError(code, reply.message or "", seconds(data.get("retry_after")))


def joined(reply: Envelope) -> Joined:
    """The reply to ``join``."""
    return _convert({**_data(reply), "room": reply.room, "epoch": reply.epoch, "seq": reply.seq}, Joined)


def resumed(reply: Envelope) -> tuple[list[Joined], Filter]:
    """The reply to ``join`` with a resume token: the rooms that were entered, and the filter."""
    data = _data(reply)
    rooms = _convert(data.get("rooms"), dict[str, dict[str, Any]])
    entered = [_convert({**room, "room": name}, Joined) for name, room in rooms.items() if "code" not in room]
    return entered, _convert(data, Filter)


def went_on(reply: Envelope) -> dict[str, Joined]:
    """What the reply to such a ``join`` says of the organisation and the user."""
    data = _data(reply)
    return {
        of: _convert({**data[of], "room": name}, Joined) for of, name in OWN_NAMES.items() if data.get(of)
    }


def published(reply: Envelope, mid: str) -> Published:
    """The reply to ``publish``; ``mid`` is what was sent."""
    return Published(room=reply.room, epoch=reply.epoch, seq=reply.seq, mid=reply.mid or mid)


def sent(reply: Envelope) -> Sent:
    """The reply to ``send``."""
    return _convert({**_data(reply), "mid": reply.mid}, Sent)


def filter_of(reply: Envelope) -> Filter:
    """The reply to ``subscribe`` and ``unsubscribe``."""
    return _convert(reply.data, Filter)


def history(reply: Envelope) -> HistoryPage:
    """The reply to ``history``; its events get the room and epoch that they have in common."""
    data = _data(reply)
    shared = {"room": reply.room, "epoch": reply.epoch}
    events = [
        _convert({**event, **shared}, Event) for event in _convert(data.get("events"), list[dict[str, Any]])
    ]
    return _convert({**data, **shared, "seq": reply.seq, "events": events}, HistoryPage)


def presence(reply: Envelope) -> Presence:
    """The reply to ``presence``."""
    return _convert(reply.data, Presence)


def refreshed(reply: Envelope) -> Refreshed:
    """The reply to ``refresh``."""
    return _convert(_data(reply), Refreshed)
