"""Processes that publish into a Redis without a client: what a backend would do, or a node's writing side.

Each is commanded by lines: ``publish FIRST COUNT ROOMS`` publishes the messages of these numbers, message
``n`` to room ``n % ROOMS``, and answers with a line of JSON when all of them have their place.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass

from bench.dialect import PAD


@dataclass(frozen=True)
class Order:
    """What to publish."""

    first: int
    count: int
    rooms: int

    @property
    def numbers(self) -> range:
        """The numbers of the messages."""
        return range(self.first, self.first + self.count)

    def room(self, number: int) -> str:
        """Where a message goes."""
        return f"bench-{number % self.rooms:05d}"

    @staticmethod
    def data(number: int) -> dict[str, object]:
        """What it says; 150 bytes, with what is around it."""
        return {"number": number, "pad": PAD}


def read_order() -> Order | None:
    """Wait for the next line; None when there is no more."""
    line = sys.stdin.readline()
    if not line:
        return None
    word, *numbers = line.split()
    if word != "publish":
        raise SystemExit(f"unknown command {word!r}")
    return Order(*map(int, numbers))


class Stopwatch:
    """Times one order, and answers it."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def answer(self, error: str | None = None) -> None:
        """Say that it is done, or what failed."""
        seconds = time.monotonic() - self._begun
        print(json.dumps({"seconds": seconds} if error is None else {"error": error}), flush=True)
