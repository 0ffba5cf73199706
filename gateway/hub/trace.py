"""What became of a message, recipient by recipient: "why didn't Bob get it?".

Off unless ``trace.messages`` is set; then of every traced message (a share of them,
``trace.sample``) one small record is kept for each connection it could have reached, bounded
in messages and in records. Tracing costs about a microsecond for each recipient and nothing
when it is off.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Literal
from zlib import crc32

from gateway.broker.base import Event
from gateway.config.settings import TraceSettings

if TYPE_CHECKING:
    from gateway.hub.connection import Connection
    from gateway.hub.lag import Lag
    from gateway.hub.room import Membership
    from gateway.wire.outbox import Outbox

__all__ = ["Outcome", "Tracer"]

Outcome = Literal[
    "queued",
    "sent",
    "lagging",
    "dropped",
    "replayed",
    "closed",
    "filtered",
    "excluded",
    "not_joined",
    "not_connected",
    "unknown",
]

_UNMATCHED: Final = frozenset({"filtered", "excluded", "not_joined", "not_connected"})


class _Record:
    """One connection's share in one message."""

    __slots__ = ("lag", "mark", "outbox", "outcome", "place", "reason", "seq", "user")

    def __init__(
        self, user: str | None, outcome: Outcome, outbox: Outbox | None = None, reason: str | None = None
    ) -> None:
        """``outbox`` is that of a connection whose outcome may still change."""
        self.user = user
        self.outcome: Outcome = outcome
        self.reason = reason
        self.outbox = outbox
        self.place: Membership | None = None
        self.lag: Lag | None = None
        self.seq = 0
        # When the outbox has sent this many messages, this one was among them.
        self.mark = 0 if outbox is None else outbox.sent_messages + outbox.unsent

    @classmethod
    def lagging(cls, place: Membership, lag: Lag, seq: int) -> _Record:
        """What is kept for the connection, or to be read from history, until its socket has drained."""
        record = cls(place.connection.user, "lagging", place.connection.outbox, lag.policy)
        record.place, record.lag, record.seq = place, lag, seq
        return record

    def now(self) -> tuple[Outcome, str | None]:
        """The outcome, and the reason for it where there is one."""
        outbox = self.outbox
        if outbox is None:
            return self.outcome, self.reason
        if self.place is not None and self.lag is not None:
            if outbox.broken:
                return "closed", None
            if self.place.group is None:
                return "dropped", "left"
            if self.place.lag is self.lag and self.lag.position < self.seq:
                return "lagging", self.reason
            return "dropped", "history" if self.lag.replays else self.reason
        if outbox.sent_messages >= self.mark:
            return ("sent" if self.outcome == "queued" else self.outcome), None
        return ("closed" if outbox.broken else "queued"), None


class _Trace:
    """One message."""

    __slots__ = ("complete", "event", "records")

    def __init__(self, event: Event) -> None:
        self.event = event
        self.records: dict[str, _Record] = {}
        self.complete = True


class Tracer:
    """The last traced messages. Sent means handed to the kernel: what the network did then, nobody knows."""

    def __init__(self, settings: TraceSettings) -> None:
        self._settings = settings
        self._traces: OrderedDict[tuple[str, str], _Trace] = OrderedDict()
        """By organisation and message id."""
        self.records = 0
        """Connections recorded for all messages together."""

    def __len__(self) -> int:
        return len(self._traces)

    def delivered(self, org: str, event: Event, members: Iterable[Membership]) -> None:
        """``event`` has just been queued for those of ``members`` that it is for."""
        trace = self._begin(org, event)
        if trace is None:
            return
        for place in members:
            connection = place.connection
            if len(trace.records) >= self._settings.recipients:
                trace.complete = False
                break
            trace.records[connection.id] = _judge(connection, place, event)
        self._add(len(trace.records))

    def sent_to(self, connection: Connection, event: Event) -> None:
        """``event``, which is for this connection alone, has been queued, unless its filter held it back."""
        trace = self._begin(connection.org, event)
        if trace is not None:
            wanted = connection.filter.allows(event.event)
            trace.records[connection.id] = (
                _queued(connection) if wanted else _Record(connection.user, "filtered")
            )
            self._add(1)

    def dropped(self, connection: Connection, event: Event, policy: str) -> None:
        """The overflow policy of ``connection`` gave ``event`` up."""
        self._change(connection, event, "dropped", policy)

    def replayed(self, connection: Connection, event: Event) -> None:
        """``event`` was queued for ``connection`` later than for the others."""
        self._change(connection, event, "replayed", None)

    def find(
        self, org: str, mid: str, user: str | None, present: Iterable[Connection]
    ) -> dict[str, Any] | None:
        """What is known of a message of ``org``, for one user or for all; None when it is not traced.

        ``present`` are the organisation's open connections: it is told of each of the user's that it was not
        in the room.
        """
        trace = self._traces.get((org, mid))
        if trace is None:
            return None
        event = trace.event
        recipients = [
            _describe(connection, record.user, *record.now())
            for connection, record in trace.records.items()
            if user is None or record.user == user
        ]
        if user is not None:
            recipients += [
                _describe(connection.id, user, "not_joined" if trace.complete else "unknown")
                for connection in present
                if connection.user == user
                and connection.id not in trace.records
                and connection.connected_at <= event.ts
            ]
            if not recipients:
                recipients = [_describe(None, user, "not_connected" if trace.complete else "unknown")]
        whole = {
            "mid": mid,
            "room": event.room,
            "event": event.event,
            "seq": event.seq,
            "epoch": event.epoch,
            "ts": event.ts,
            "sender": event.sender,
            "complete": trace.complete,
            "recipients": recipients,
        }
        return {key: value for key, value in whole.items() if value is not None}

    def _begin(self, org: str, event: Event) -> _Trace | None:
        # By the message id, so that all nodes trace the same messages.
        sample = self._settings.sample
        if sample < 1 and crc32(event.mid.encode()) >= sample * 2**32:
            return None
        key = (org, event.mid)
        if key in self._traces:  # the same id in another room, or behind the window of duplicates
            self._forget(key)
        trace = self._traces[key] = _Trace(event)
        return trace

    def _change(self, connection: Connection, event: Event, outcome: Outcome, reason: str | None) -> None:
        trace = self._traces.get((connection.org, event.mid))
        if trace is None or trace.event.seq != event.seq or trace.event.channel != event.channel:
            return
        before = trace.records.get(connection.id)
        if before is None and len(trace.records) >= self._settings.recipients:
            trace.complete = False
            return
        trace.records[connection.id] = (
            _queued(connection, outcome)
            if outcome == "replayed"
            else _Record(connection.user, outcome, reason=reason)
        )
        self._add(before is None)

    def _add(self, records: int) -> None:
        settings = self._settings
        self.records += records
        while len(self._traces) > settings.messages or self.records > settings.records:
            self._forget(next(iter(self._traces)))

    def _forget(self, key: tuple[str, str]) -> None:
        self.records -= len(self._traces.pop(key).records)


def _judge(connection: Connection, place: Membership, event: Event) -> _Record:
    if connection.excluded_from(event):
        return _Record(connection.user, "excluded")
    if not place.wants(event):
        return _Record(connection.user, "filtered")
    lag = place.lag
    if lag is None or event.critical:
        return _queued(connection)
    if lag.aligned:  # brought by a replay before this node heard of it, or queued just now
        return _queued(connection, "replayed" if (event.seq or 0) <= lag.position else "queued")
    return _Record.lagging(place, lag, event.seq or 0)


def _queued(connection: Connection, outcome: Outcome = "queued") -> _Record:
    connection.outbox.settle()
    if connection.outbox.sealed:
        return _Record(connection.user, "closed")
    return _Record(connection.user, outcome, connection.outbox)


def _describe(
    connection: str | None, user: str | None, outcome: Outcome, reason: str | None = None
) -> dict[str, Any]:
    whole = {
        "connection": connection,
        "user": user,
        "matched": outcome not in _UNMATCHED if outcome != "unknown" else None,
        "outcome": outcome,
        "reason": reason,
    }
    return {key: value for key, value in whole.items() if value is not None}
