"""A backend that publishes through Centrifugo's server API, in batches.

A batch holds one message for each room and is carried out in parallel, which its documentation offers for
speed; the next one follows when it is answered, so that the order of a room is kept.
"""

from __future__ import annotations

import argparse
import http.client

import msgspec

from bench.feeders import Order, Stopwatch, read_order

TIMEOUT = 20.0


class Feeder:
    """One connection to the API."""

    def __init__(self, port: int, key: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        self._headers = {"X-API-Key": key, "Content-Type": "application/json"}

    def publish(self, order: Order) -> str | None:
        """Carry out one order; returns what failed."""
        for first in range(order.first, order.first + order.count, order.rooms):
            last = min(first + order.rooms, order.first + order.count)
            commands = [
                {"publish": {"channel": order.room(number), "data": order.data(number)}}
                for number in range(first, last)
            ]
            body = msgspec.json.encode({"commands": commands, "parallel": True})
            self._connection.request("POST", "/api/batch", body, self._headers)
            answer = self._connection.getresponse()
            text = answer.read()
            if answer.status != 200 or b'"error"' in text:
                return f"HTTP {answer.status}: {text[:200].decode(errors='replace')}"
        return None


def main() -> None:
    """Serve orders until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    chosen = parser.parse_args()
    feeder = Feeder(chosen.port, chosen.key)
    while order := read_order():
        watch = Stopwatch()
        watch.answer(feeder.publish(order))


if __name__ == "__main__":
    main()
