"""Publishing where the setting ``events.patterns`` says which events a room takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.auth.identity import Identity
from gateway.broker.base import Done
from gateway.cluster.base import Cluster
from gateway.config.settings import RoomEvents
from gateway.hub.hub import Hub
from gateway.limits.overload import Overload
from gateway.operations.events import Events
from gateway.operations.execution_rooms import ALL, id_of
from protocol.errors import ErrorCode, ProtocolError
from protocol.patterns import EventFilter, compile_pattern
from protocol.registry import EventTypes

__all__ = ["CheckedEvents"]


class CheckedEvents(Events):
    """Events that must also fit the rooms which they are published to.

    A class of its own, so that publishing costs nothing more where no room is checked.
    """

    __slots__ = ("_rules", "_types")

    def __init__(
        self,
        hub: Hub,
        cluster: Cluster,
        overload: Overload,
        types: EventTypes,
        patterns: Mapping[str, RoomEvents],
    ) -> None:
        super().__init__(hub, cluster, overload)
        self._types = types
        self._rules = [
            (compile_pattern(pattern), EventFilter.of(rule.types or ["*"]), rule.strict)
            for pattern, rule in patterns.items()
        ]

    def submit(
        self,
        identity: Identity,
        room: str | None,
        event: str | None,
        data: Any,
        done: Done,
        mid: str | None,
        critical: bool,
        size: int,
    ) -> None:
        """As ``Events.submit``; raises what ``publish`` raises."""
        self._check(identity, room, event, mid, critical)  # what the token may not do is said first
        self._check_type(room, event, data)
        super().submit(identity, room, event, data, done, mid, critical, size)

    def _data_of(self, room: str | None, event: str, data: Any) -> Any:
        """As ``Events._data_of``, and of the event's type.

        Raises MISSING_FIELD or BAD_FIELD for data that does not fit, EVENT_NOT_ALLOWED for an event that a
        strict room does not take.
        """
        data = super()._data_of(room, event, data)
        self._check_type(room, event, data)
        return data

    def _check_type(self, room: str | None, event: str | None, data: Any) -> None:
        if room is None or event is None or room == ALL or id_of(room) is not None:
            return  # what the gateway tells of executions is not for a pattern such as * to stop
        for fits, types, strict in self._rules:
            if fits(room):
                if types.allows(event) and event in self._types:
                    self._types.check(event, data)
                elif strict:
                    raise ProtocolError(
                        ErrorCode.EVENT_NOT_ALLOWED, "event: this room does not take events of this type"
                    )
                return
