"""How much of which channel is kept: the one place that reads the patterns in ``[history]``."""

from __future__ import annotations

from typing import Final, NamedTuple

from gateway.broker.channels import Channel, Kind
from gateway.config.settings import HistorySettings, RoomHistory, UserHistory
from protocol.cache import Cache, Family
from protocol.patterns import compile_pattern

__all__ = ["Bounds", "HistoryBounds"]

_LONGEST: Final = 300
"""Characters of the longest channel: an organisation's name, a room's, and what stands between."""


class Bounds(NamedTuple):
    """What is kept of one channel; whatever is passed first lets the oldest go."""

    messages: int
    bytes: int
    age: float
    """Seconds."""


_FOUND: Final = Family[Bounds]("history bounds", max_bytes=4 << 20, max_entries=10_000, max_key=_LONGEST)


class HistoryBounds:
    """The bounds of every channel. Pure; the same for all brokers."""

    def __init__(self, settings: HistorySettings) -> None:
        default = Bounds(settings.messages, settings.bytes, settings.age)
        self.default = default
        """Of rooms that no pattern names."""
        self._organisation = _bounds(settings.organisation, default)
        self._user = _bounds(settings.user, default)
        self._patterns = [
            (
                compile_pattern(pattern),
                _bounds(given, default),
            )
            for pattern, given in settings.patterns.items()
        ]
        self._cache: Cache[Bounds] = _FOUND.new()

    def of(self, channel: Channel) -> Bounds:
        """The bounds of a channel: for a room those of the first pattern, as they are written, that fits."""
        if channel.kind is Kind.USER:
            return self._user
        if channel.kind is Kind.ORGANISATION:
            return self._organisation
        if not self._patterns:
            return self.default
        bounds = self._cache.get(channel)
        if bounds is None:
            bounds = self._cache[channel] = self._find(channel)
        return bounds

    def _find(self, channel: Channel) -> Bounds:
        if channel.kind is Kind.ROOM:
            for matches, bounds in self._patterns:
                if matches(channel.name):
                    return bounds
        return self.default


def _bounds(given: RoomHistory | UserHistory, default: Bounds) -> Bounds:
    return Bounds(
        default.messages if given.messages is None else given.messages,
        default.bytes if given.bytes is None else given.bytes,
        default.age if given.age is None else given.age,
    )
