"""What a node has submitted to one channel and has no place for yet."""

from __future__ import annotations

import math

from gateway.broker.base import Channel, Done
from gateway.broker.redis.packets import Keys
from gateway.broker.redis.servers import slot_of

__all__ = ["Batch", "Item", "PublishQueue"]


class Item:
    """One event that waits for its place."""

    __slots__ = ("at", "done", "effect", "mid", "payload")

    def __init__(
        self, mid: str, payload: bytes, done: Done, at: float, effect: tuple[str, str | None] | None = None
    ) -> None:
        self.mid = mid
        self.payload = payload
        self.done = done
        self.at = at
        self.effect = effect


class Batch:
    """Events that go together."""

    __slots__ = ("items", "number", "ordered", "sent", "size")

    def __init__(self, number: int, items: list[Item], ordered: bool, size: int) -> None:
        self.number = number
        self.items = items
        self.ordered = ordered
        self.size = size
        """Bytes of its events."""
        self.sent = False
        """The connection was lost on its way: it may have been carried out."""

    @property
    def effects(self) -> list[tuple[int, str, str | None]] | None:
        """What its events change in the state: number of the event, name and value of the entry."""
        found = [
            (number, *item.effect) for number, item in enumerate(self.items, 1) if item.effect is not None
        ]
        return found or None


class PublishQueue:
    """One channel's publishes, in order."""

    __slots__ = (
        *(
            "batch",
            "bounds",
            "busy_since",
            "channel",
            "flying",
            "keys",
            "org",
            "queued",
            "slot",
            "trouble",
            "waiting",
        ),
    )

    def __init__(self, channel: Channel, prefix: str, bounds: tuple[int, int, int, int, int]) -> None:
        """``bounds``: events, bytes, milliseconds and message ids that its stream keeps, and up to how many
        events the hash has the ids.
        """
        self.channel = channel
        self.bounds = bounds
        self.keys = Keys.of(prefix, channel)
        self.slot = slot_of(self.keys.stream)
        self.org = channel.org
        self.waiting: list[tuple[bool, Item]] = []
        """A list, because most are empty, and an empty deque takes 600 bytes."""
        self.busy_since = 0.0
        """Trio time at which it last got work while it had none; nothing in it was submitted before."""
        self.batch: Batch | None = None
        self.flying = False
        self.queued = False
        self.trouble = ""
        """Why a server that is there does not take the batch at present (its cluster is down, say)."""

    @property
    def empty(self) -> bool:
        """Nothing waits, and nothing is on its way."""
        return self.batch is None and not self.waiting

    @property
    def since(self) -> float:
        """Trio time at which the first of what waits was submitted; infinity when nothing does."""
        if self.batch is not None:
            return self.batch.items[0].at
        return self.waiting[0][1].at if self.waiting else math.inf

    def load(self, number: int, most: int, most_bytes: int) -> Batch:
        """The batch to be sent: the one that did not get through, or the next."""
        if self.batch is None:
            ordered = self.waiting[0][0]
            items: list[Item] = []
            size = 0
            for kind, item in self.waiting:
                if kind != ordered or len(items) >= most or size >= most_bytes:
                    break
                items.append(item)
                size += len(item.payload)
            del self.waiting[: len(items)]
            self.batch = Batch(number, items, ordered, size)
        return self.batch
