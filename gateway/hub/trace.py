"""What became of a message, recipient by recipient: "why didn't Bob get it?".

Off unless ``trace.messages`` is set; then of every traced message (a share of them,
``trace.sample``) one small record is kept for each connection it could have reached, bounded
in messages and in records; of the message itself its names and numbers, and not its data. When a bound is
reached, the organisation that has most gives its oldest trace. Tracing costs about a microsecond for each
recipient and nothing when it is off.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from sys import getsizeof
from typing import Any, Final, Literal
from zlib import crc32

from gateway.broker.base import Event
from gateway.config.settings import TraceSettings
from gateway.hub.connection import Connection
from gateway.hub.lag import Lag, State
from gateway.hub.peer import Member
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

_TRACE_BYTES: Final = 600
"""What a trace takes without its names: objects, their dictionaries, numbers."""
_RECORD_BYTES: Final = 250
"""What the record of one connection takes, with its key and its place in a dictionary."""
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
    """One message, without its data."""

    __slots__ = (
        "bytes",
        "channel",
        "complete",
        "epoch",
        "event",
        "mid",
        "records",
        "room",
        "sender",
        "seq",
        "ts",
    )

    def __init__(self, event: Event) -> None:
        self.channel = event.channel
        self.event = event.event
        self.mid = event.mid
        self.room = event.room
        self.sender = event.sender
        self.seq = event.seq
        self.epoch = event.epoch
        self.ts = event.ts
        self.records: dict[str, _Record] = {}
        self.complete = True
        self.bytes = _TRACE_BYTES + sum(
            getsizeof(name)
            for name in (self.channel, self.event, self.mid, self.room or "", self.sender or "")
        )
        """Memory without that of the records."""


class _Traces(OrderedDict[str, _Trace]):
    """Those of one organisation by message id, oldest first."""

    __slots__ = ("records",)

    def __init__(self) -> None:
        super().__init__()
        self.records = 0


class Tracer:
    """The last traced messages. Sent means handed to the kernel: what the network did then, nobody knows."""

    def __init__(self, settings: TraceSettings) -> None:
        self._settings = settings
        self._organisations: dict[str, _Traces] = {}
        self._messages = 0
        self.records = 0
        """Connections recorded for all messages together."""
        self._named = 0

    def __len__(self) -> int:
        return self._messages

    @property
    def bytes(self) -> int:
        """Roughly the memory of all traces."""
        return self._named + self.records * _RECORD_BYTES

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
        self._add(org, len(trace.records))

    def sent_to(self, connection: Connection, event: Event) -> None:
        """``event``, which is for this connection alone, has been queued, unless its filter held it back."""
        trace = self._begin(connection.org, event)
        if trace is not None:
            wanted = connection.filter.allows(event.event)
            trace.records[connection.id] = (
                _queued(connection) if wanted else _Record(connection.user, "filtered")
            )
            self._add(connection.org, 1)

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
        trace = self._find(org, mid)
        if trace is None:
            return None
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
                and connection.connected_at <= trace.ts
            ]
            if not recipients:
                recipients = [_describe(None, user, "not_connected" if trace.complete else "unknown")]
        whole = {
            "mid": mid,
            "room": trace.room,
            "event": trace.event,
            "seq": trace.seq,
            "epoch": trace.epoch,
            "ts": trace.ts,
            "sender": trace.sender,
            "complete": trace.complete,
            "recipients": recipients,
        }
        return {key: value for key, value in whole.items() if value is not None}

    def _begin(self, org: str, event: Event) -> _Trace | None:
        # By the message id, so that all nodes trace the same messages.
        sample = self._settings.sample
        if sample < 1 and crc32(event.mid.encode()) >= sample * 2**32:
            return None
        if self._find(org, event.mid) is not None:  # in another room, or behind the window of duplicates
            self._forget(org, event.mid)
        trace = self._organisations.setdefault(org, _Traces())[event.mid] = _Trace(event)
        self._messages += 1
        self._named += trace.bytes
        return trace

    def _find(self, org: str, mid: str) -> _Trace | None:
        traces = self._organisations.get(org)
        return None if traces is None else traces.get(mid)

    def _change(self, connection: Connection, event: Event, outcome: Outcome, reason: str | None) -> None:
        trace = self._find(connection.org, event.mid)
        if trace is None or trace.seq != event.seq or trace.channel != event.channel:
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
        self._add(connection.org, before is None)

    def _add(self, org: str, records: int) -> None:
        settings = self._settings
        self.records += records
        self._organisations[org].records += records
        while self._messages > settings.messages:
            self._forget(*self._oldest_of_most(org, _number, settings.messages))
        while self.records > settings.records:
            self._forget(*self._oldest_of_most(org, _records, settings.records))

    def _oldest_of_most(self, org: str, measure: Callable[[_Traces], int], limit: int) -> tuple[str, str]:
        # Whoever traces just now has nearly always its whole share, and then nobody else is looked at.
        mine = self._organisations.get(org)
        if mine is None or measure(mine) * len(self._organisations) <= limit:
            org = max(self._organisations, key=lambda each: measure(self._organisations[each]))
        return org, next(iter(self._organisations[org]))

    def _forget(self, org: str, mid: str) -> None:
        traces = self._organisations[org]
        trace = traces.pop(mid)
        if not traces:
            del self._organisations[org]
        traces.records -= len(trace.records)
        self.records -= len(trace.records)
        self._messages -= 1
        self._named -= trace.bytes


_number: Final = len


def _records(traces: _Traces) -> int:
    return traces.records


def _judge(connection: Member, place: Membership, event: Event) -> _Record:
    if connection.excluded_from(event):
        return _Record(connection.user, "excluded")
    if not place.wants(event):
        return _Record(connection.user, "filtered")
    lag = place.lag
    if lag is None or event.critical:
        return _queued(connection)
    if lag.state is State.AHEAD:  # brought by a replay before this node heard of it, or queued just now
        return _queued(connection, "replayed" if (event.seq or 0) <= lag.position else "queued")
    return _Record.lagging(place, lag, event.seq or 0)


def _queued(connection: Member, outcome: Outcome = "queued") -> _Record:
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
