"""What a single node remembers for a while, each organisation within its share."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

__all__ = ["Notes"]

_OVERHEAD: Final = 300
"""Bytes that a note takes beside its key and value (measured with tracemalloc)."""


class _Share:
    """One organisation's notes."""

    __slots__ = ("bytes", "notes")

    def __init__(self) -> None:
        self.notes: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self.bytes = 0


class Notes:
    """At most ``total`` bytes; when more is noted, the organisation that has most loses its oldest."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._shares: dict[str, _Share] = {}
        self.bytes = 0
        """Of all notes, with what they take beside their text."""

    def __len__(self) -> int:
        return sum(len(share.notes) for share in self._shares.values())

    def set(self, org: str, key: str, value: bytes, deadline: float) -> None:
        """Keep ``value``; all notes live about equally long."""
        self.discard(org, key)
        share = self._shares.setdefault(org, _Share())
        share.notes[key] = (deadline, value)
        size = _size(key, value)
        share.bytes += size
        self.bytes += size
        while self.bytes > self._total:
            # Whoever has more than an even part can be found without looking at all.
            even = self._total // len(self._shares)
            largest = org if org in self._shares and self._shares[org].bytes > even else self._largest()
            self.discard(largest, next(iter(self._shares[largest].notes)))

    def get(self, org: str, key: str, now: float) -> bytes | None:
        """What is kept; None when it is gone or its time is over."""
        share = self._shares.get(org)
        deadline, value = (0.0, None) if share is None else share.notes.get(key, (0.0, None))
        return value if deadline > now else None

    def expire(self, now: float) -> None:
        """Drop what has lived long enough."""
        for org, share in list(self._shares.items()):
            # The front is where the expired ones are.
            while share.notes and next(iter(share.notes.values()))[0] <= now:
                self.discard(org, next(iter(share.notes)))

    def discard(self, org: str, key: str) -> None:
        """Drop one, if it is there."""
        share = self._shares.get(org)
        found = None if share is None else share.notes.pop(key, None)
        if share is not None and found is not None:
            size = _size(key, found[1])
            share.bytes -= size
            self.bytes -= size
            if not share.notes:
                del self._shares[org]

    def clear(self) -> None:
        """Drop all."""
        self._shares.clear()
        self.bytes = 0

    def _largest(self) -> str:
        return max(self._shares, key=lambda org: self._shares[org].bytes)


def _size(key: str, value: bytes) -> int:
    return len(key) + len(value) + _OVERHEAD
