"""What a node has submitted to one channel and has no place for yet."""

from __future__ import annotations

from collections import deque

from gateway.broker.base import Done
from gateway.broker.redis.packets import Keys, organisation_of
from gateway.broker.redis.servers import slot_of

__all__ = ["Batch", "Item", "PublishQueue"]


class Item:
    """One event that waits for its place."""

    __slots__ = ("at", "done", "mid", "payload")

    def __init__(self, mid: str, payload: bytes, done: Done, at: float) -> None:
        self.mid = mid
        self.payload = payload
        self.done = done
        self.at = at


class Batch:
    """Events that go together."""

    __slots__ = ("items", "number", "ordered", "sent")

    def __init__(self, number: int, items: list[Item], ordered: bool) -> None:
        self.number = number
        self.items = items
        self.ordered = ordered
        self.sent = False


class PublishQueue:
    """One channel's publishes, in order."""

    __slots__ = ("batch", "bounds", "flying", "keys", "org", "queued", "slot", "waiting")

    def __init__(self, channel: str, prefix: str, bounds: tuple[int, int, int, int]) -> None:
        """``bounds``: events, bytes, milliseconds and message ids that its stream keeps."""
        self.bounds = bounds
        self.keys = Keys.of(prefix, channel)
        self.slot = slot_of(self.keys.stream)
        self.org = organisation_of(channel)
        self.waiting: deque[tuple[bool, Item]] = deque()
        self.batch: Batch | None = None
        self.flying = False
        self.queued = False

    @property
    def empty(self) -> bool:
        """Nothing waits, and nothing is on its way."""
        return self.batch is None and not self.waiting

    def load(self, number: int, most: int, most_bytes: int) -> Batch:
        """The batch to be sent: the one that did not get through, or the next."""
        if self.batch is None:
            ordered = self.waiting[0][0]
            items: list[Item] = []
            size = 0
            while self.waiting and self.waiting[0][0] == ordered and len(items) < most and size < most_bytes:
                item = self.waiting.popleft()[1]
                items.append(item)
                size += len(item.payload)
            self.batch = Batch(number, items, ordered)
        return self.batch
