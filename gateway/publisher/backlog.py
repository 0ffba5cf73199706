"""What was put into the queue and is not sent yet. Pure, and bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.publisher.errors import PublisherClosed, PublisherError, QueueFull, Refused, Unreachable
from gateway.publisher.results import BatchResult

__all__ = ["Backlog", "OnError"]

_BATCH: Final = 100
"""Operations of one request (``limits.batch`` of the gateway)."""
_BATCH_BYTES: Final = 512 * 1024
_AWAY: Final = frozenset({429, 500, 502, 503, 504})

OnError = Callable[[Mapping[str, Any], PublisherError], object]
"""Called with the operation, as in a batch, and the reason why it was given up."""


@dataclass(slots=True)
class _Waiting:
    operation: Mapping[str, Any]
    size: int
    tries: int = 0


class Backlog:
    """A queue of operations, taken out in batches; what the gateway could not do now goes back in front."""

    def __init__(self, messages: int, size: int, tries: int, on_error: OnError | None) -> None:
        """At most ``messages`` and ``size`` bytes wait; each is tried ``tries`` times."""
        if messages < 1 or size < 1:
            raise ValueError("queue_messages and queue_bytes must be at least 1")
        self._most = messages
        self._most_bytes = size
        self._tries = tries
        self._on_error = on_error
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._under_way = 0
        self.closed = False
        self.dropped = 0
        """Operations that were given up."""

    def __len__(self) -> int:
        return len(self._waiting) + self._under_way

    def put(self, operation: Mapping[str, Any]) -> None:
        """Raises :class:`QueueFull`, PublisherClosed, and ValueError for data that is no JSON."""
        if self.closed:
            raise PublisherClosed
        try:
            size = len(msgspec.json.encode(operation))
        except (TypeError, UnicodeEncodeError, OverflowError) as error:
            raise ValueError(f"the data is not JSON: {error}") from None
        if len(self) >= self._most:
            raise QueueFull(f"{len(self)} events wait already; the gateway is away or too slow")
        if self._bytes + size > self._most_bytes:
            raise QueueFull(f"{self._bytes} bytes wait already, and {size} more are too many")
        self._waiting.append(_Waiting(operation, size))
        self._bytes += size

    def take(self) -> list[_Waiting]:
        """The next batch, which counts as waiting until it is :meth:`settled` or :meth:`failed`."""
        batch: list[_Waiting] = []
        size = 0
        while self._waiting and len(batch) < _BATCH:
            if batch and size + self._waiting[0].size > _BATCH_BYTES:
                break
            batch.append(self._waiting.popleft())
            size += batch[-1].size
        self._under_way = len(batch)
        return batch

    def settled(self, batch: Sequence[_Waiting], results: Sequence[BatchResult]) -> float | None:
        """Take note of what became of ``batch``; returns seconds to wait when some are to be tried again."""
        again: list[_Waiting] = []
        wait: float | None = None
        for each, result in zip(batch, results, strict=True):
            each.tries += 1
            error = result.error
            if error is not None and error.status in (429, 503) and each.tries < self._tries:
                again.append(each)
                wait = max(wait or 0.0, error.retry_after or 0.1)
                continue
            self._bytes -= each.size
            if error is not None:
                self._give_up(each, error)
        self._waiting.extendleft(reversed(again))
        self._under_way = 0
        return wait

    def unanswered(self, batch: Sequence[_Waiting], error: PublisherError) -> bool:
        """The whole batch was not answered, or not with success; returns whether it is to be tried again.

        So it is for as long as the gateway is away: then the queue fills, and whoever puts in is told.
        """
        away = isinstance(error, Unreachable) or (isinstance(error, Refused) and error.status in _AWAY)
        doubtful = isinstance(error, Unreachable) and error.sent
        once = any(each.operation.get("ephemeral") for each in batch)  # its id would not be known again
        if self.closed or not away or (doubtful and once):
            self.failed(batch, error)
            return False
        self._waiting.extendleft(reversed(batch))
        self._under_way = 0
        return True

    def failed(self, batch: Sequence[_Waiting], error: PublisherError) -> None:
        """The whole batch is given up."""
        self._under_way = 0
        for each in batch:
            self._bytes -= each.size
            self._give_up(each, error)

    def give_up_all(self, error: PublisherError) -> None:
        """Nothing more is sent."""
        self.closed = True
        waiting, self._waiting = self._waiting, deque()
        self.failed(list(waiting), error)

    def _give_up(self, waiting: _Waiting, error: PublisherError) -> None:
        self.dropped += 1
        if self._on_error is not None:
            self._on_error(waiting.operation, error)
