"""What became of a message, recipient by recipient: "why didn't Bob get it?".

Off unless ``trace.messages`` is set; then of every traced message (a share of them,
``trace.sample``) one small record is kept for each connection it could have reached, bounded
in messages and in records. Tracing costs about a microsecond for each recipient and nothing
when it is off.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Literal

from gateway.broker.base import Event
from gateway.settings import TraceSettings

if TYPE_CHECKING:
    from gateway.hub.connection import Connection
    from gateway.hub.room import Room
    from gateway.wire.outbox import Outbox

__all__ = ["Tracer"]

Outcome = Literal["filtered", "excluded", "queued", "sent", "lagging", "dropped", "replayed", "closed"]


class _Record:
    """One connection's share in one message."""

    __slots__ = ("mark", "outbox", "outcome", "reason", "user")

    def __init__(self, user: str | None, outcome: Outcome, outbox: Outbox | None = None) -> None:
        self.user = user
        self.outcome: Outcome = outcome
        self.reason: str | None = None
        self.outbox = outbox
        # When the outbox has sent this many messages, this one was among them.
        self.mark = 0 if outbox is None else outbox.sent_messages + outbox.waiting

    def describe(self, connection: str) -> dict[str, Any]:
        outcome = self.outcome
        if outcome in {"queued", "replayed"} and self.outbox is not None:
            if self.outbox.sent_messages >= self.mark:
                outcome = "sent" if outcome == "queued" else "replayed"
            elif self.outbox.broken:
                outcome = "closed"
        whole = {"connection": connection, "user": self.user, "outcome": outcome, "reason": self.reason}
        return {key: value for key, value in whole.items() if value is not None}


class _Trace:
    """One message."""

    __slots__ = ("event", "org", "records")

    def __init__(self, org: str, event: Event) -> None:
        self.org = org
        self.event = event
        self.records: dict[str, _Record] = {}


class Tracer:
    """The last traced messages. Sent means handed to the kernel: what the network did then, nobody knows."""

    def __init__(self, settings: TraceSettings) -> None:
        self._settings = settings
        self._traces: OrderedDict[str, _Trace] = OrderedDict()
        self._records = 0

    def fanned_out(self, room: Room, event: Event) -> None:
        """``event`` has just been queued for the members of ``room``."""
        settings = self._settings
        if settings.sample < 1 and random.random() >= settings.sample:
            return
        trace = self._traces[event.mid] = _Trace(event.channel.partition("\0")[0], event)
        for connection, place in room.members.items():
            connection.outbox.settle()
            if len(trace.records) >= settings.recipients:
                break
            if connection.excluded_from(event):
                outcome: Outcome = "excluded"
            elif not place.wants(event):
                outcome = "filtered"
            elif place.lag is not None:
                outcome = "lagging"
            elif connection.outbox.sealed:
                outcome = "closed"
            else:
                outcome = "queued"
            outbox = connection.outbox if outcome == "queued" else None
            trace.records[connection.id] = _Record(connection.user, outcome, outbox)
        self._records += len(trace.records)
        while len(self._traces) > settings.messages or self._records > settings.records:
            _, oldest = self._traces.popitem(last=False)
            self._records -= len(oldest.records)

    def dropped(self, connection: Connection, event: Event, reason: str) -> None:
        """The overflow policy of ``connection`` gave ``event`` up."""
        self._change(connection, event, _Record(connection.user, "dropped"), reason)

    def replayed(self, connection: Connection, event: Event) -> None:
        """``event`` was queued for ``connection`` later than for the others."""
        self._change(connection, event, _Record(connection.user, "replayed", connection.outbox), None)

    def _change(self, connection: Connection, event: Event, record: _Record, reason: str | None) -> None:
        trace = self._traces.get(event.mid)
        if trace is not None and trace.event is event:
            record.reason = reason
            self._records += connection.id not in trace.records
            trace.records[connection.id] = record

    def find(self, org: str, mid: str, user: str | None) -> dict[str, Any] | None:
        """What is known of a message of ``org``, for one user or for all; None when it is not traced."""
        trace = self._traces.get(mid)
        if trace is None or trace.org != org:
            return None
        event = trace.event
        return {
            "mid": mid,
            "room": event.room,
            "event": event.event,
            "seq": event.seq,
            "ts": event.ts,
            "recipients": [
                record.describe(connection)
                for connection, record in trace.records.items()
                if user is None or record.user == user
            ],
        }
