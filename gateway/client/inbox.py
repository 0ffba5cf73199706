"""What was received and not yet taken by the application, on either event loop."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import anyio
import anyio.lowlevel

__all__ = ["Inbox", "InboxClosed"]

T = TypeVar("T")


class InboxClosed(Exception):
    """Everything was taken, and nothing more will come."""


class Inbox(Generic[T]):
    """A queue with a bound. A cancelled ``put`` has put nothing, a cancelled ``get`` has taken nothing."""

    def __init__(self, size: int) -> None:
        """At most ``size`` items wait; with 0 each is handed over to somebody who waits for it."""
        self._size = size
        self._items: deque[T] = deque()
        self._takers = 0
        self._closed = False
        self._filled = anyio.Event()
        self._taken = anyio.Event()

    async def put(self, item: T) -> None:
        """Add ``item``, after waiting for room. What comes after :meth:`close` is dropped."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        while not self._closed and len(self._items) >= self._size + self._takers:
            self._taken = anyio.Event() if self._taken.is_set() else self._taken
            await self._taken.wait()
        if not self._closed:
            self._items.append(item)
            self._filled.set()
        await anyio.lowlevel.cancel_shielded_checkpoint()

    async def get(self) -> T:
        """Take the oldest item. Raises :class:`InboxClosed`."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        if not self._items:
            await self._wait()
        item = self._items.popleft()
        self._taken.set()
        await anyio.lowlevel.cancel_shielded_checkpoint()
        return item

    async def _wait(self) -> None:
        self._takers += 1
        self._taken.set()
        try:
            while not self._items:
                if self._closed:
                    raise InboxClosed
                self._filled = anyio.Event() if self._filled.is_set() else self._filled
                await self._filled.wait()
        finally:
            self._takers -= 1

    def close(self) -> None:
        """What is there can still be taken."""
        self._closed = True
        self._filled.set()
        self._taken.set()
