"""Who is primary, when Sentinels name it: all are asked, because one may be cut off from the others.

Such a one goes on naming the primary that it knows, which is perhaps cut off with it and takes writes that
nobody will ever have. Each fail-over has a configuration epoch, larger than the one before. So the newest
epoch counts, and of two primaries with the same one the one that more Sentinels name. What is older than what
was followed before is not believed, unless more than half of all Sentinels agree (they were set up anew).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import trio

from gateway.broker.redis.connection import ConnectionOptions, LinkLost, Location, ask

__all__ = ["Sentinels"]


class _Word(NamedTuple):
    """What a Sentinel says."""

    epoch: int
    primary: Location


class Sentinels:
    """All Sentinels of one service."""

    def __init__(
        self,
        hosts: Sequence[tuple[str, int]],
        service: str,
        options: ConnectionOptions,
        timeout: float,
    ) -> None:
        """``timeout`` in seconds is what they have to answer together."""
        self._hosts = hosts
        self._service = service
        self._options = options
        self._timeout = timeout
        self._epoch = -1
        """The newest that was followed."""

    async def primary(self) -> Location:
        """Where the primary is; raises LinkLost when that cannot be known.

        Returns as soon as more than half of them agree.
        """
        words: list[_Word] = []
        reasons: list[str] = []
        async with trio.open_nursery() as nursery:

            async def inquire(host: str, port: int) -> None:
                try:
                    words.append(await self._ask(Location(host, port)))
                except LinkLost as lost:
                    reasons.append(str(lost))
                if self._agreed(words):
                    nursery.cancel_scope.cancel()

            for host, port in self._hosts:
                nursery.start_soon(inquire, host, port)
        return self._decide(words, reasons)

    def _agreed(self, words: list[_Word]) -> _Word | None:
        """What more than half of all say, whether or not the others answer."""
        for word, said in Counter(words).most_common(1):
            if 2 * said > len(self._hosts):
                return word
        return None

    def _decide(self, words: list[_Word], reasons: list[str]) -> Location:
        if not words:
            raise LinkLost("; ".join(reasons))
        said = Counter(words)
        best = max(said, key=lambda word: (word.epoch, said[word]))
        if best.epoch < self._epoch and best != self._agreed(words):
            raise LinkLost(
                f"the Sentinels that answer name {best.primary} of epoch {best.epoch},"
                f" which is older than epoch {self._epoch}"
            )
        self._epoch = best.epoch
        return best.primary

    async def _ask(self, sentinel: Location) -> _Word:
        # The epoch first: what is named after it is at least as new.
        each = self._timeout / 2
        told = _pairs(await ask(sentinel, self._options, each, b"SENTINEL MASTER", self._service))
        named = await ask(sentinel, self._options, each, b"SENTINEL GET-MASTER-ADDR-BY-NAME", self._service)
        if not named:
            raise LinkLost(f"{sentinel} does not know {self._service!r}")
        return _Word(int(told.get(b"config-epoch", 0)), Location(named[0].decode(), int(named[1])))


def _pairs(reply: Any) -> dict[bytes, bytes]:
    """A map, or what stands for it in the older protocol."""
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
