"""Leaving while an answer comes: the next request must not find the HTTP client closed."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import trio

from gateway.client import connect

CONNECTED = {"v": 1, "t": "connected", "data": {"connection": "c-1", "org": "acme", "user": "alice"}}


class Polls(httpx.AsyncBaseTransport):
    """Answers the first poll with the greeting, and each further one when it is told to."""

    def __init__(self, turns: int) -> None:
        self._turns = turns
        self.asked = trio.Event()
        self.answer = trio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        messages: list[dict[str, Any]] = []
        if "tell" in request.url.params:
            messages.append(CONNECTED)
        else:
            self.asked.set()
            await self.answer.wait()
            for _ in range(
                self._turns
            ):  # as a socket that has read already, which a cancellation leaves alone
                await trio.lowlevel.cancel_shielded_checkpoint()
        return httpx.Response(200, json={"messages": messages, "cursor": "c"})


@pytest.mark.parametrize("turns", range(12))
async def test_leaving_in_the_moment_of_an_answer(turns: int) -> None:
    polls = Polls(turns)
    async with connect("ws://127.0.0.1/ws", token="t", http=polls, transports=["poll"]):
        await polls.asked.wait()
        polls.answer.set()
        polls.answer = trio.Event()
