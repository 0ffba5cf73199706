"""Plain integers that the hot path increments and the metrics read."""

from __future__ import annotations

from collections import Counter

__all__ = ["Counters"]


class Counters:
    """Totals of this node since it started; messages and bytes of ended connections (see ``Hub.totals``)."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "closes",
        "connects",
        "deliveries",
        "disconnects",
        "drained",
        "dropped",
        "errors",
        "messages_in",
        "messages_out",
        "publishes",
        "refused",
        "replayed",
        "slow_closed",
        "transports",
    )

    def __init__(self) -> None:
        self.connects = 0
        self.disconnects = 0
        self.messages_in = 0
        self.messages_out = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.publishes = 0
        self.deliveries = 0
        self.slow_closed = 0
        self.refused = 0
        self.drained = 0
        """Connections asked to leave because the node is stopping."""
        self.dropped: Counter[str] = Counter()
        """Events given up by an overflow policy, by its name."""
        self.replayed = 0
        """Events sent later than to the others: after a join with ``since``, or a lag."""
        self.closes: Counter[int] = Counter()
        """By close code."""
        self.transports: Counter[str] = Counter()
        """Connections since the start, by what carries them."""
        self.errors: Counter[int] = Counter()
        """By error code."""
