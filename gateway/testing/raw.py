"""A client that speaks the envelope message by message, and says exactly what it is told."""

from __future__ import annotations

from typing import Any

import trio
import trio_websocket

from gateway.testing.link import Link
from protocol.codec import Codec
from protocol.envelope import Envelope

__all__ = ["RawClient"]


class RawClient:
    """One connection over trio-websocket. It answers pings, and nothing else by itself."""

    def __init__(
        self, socket: trio_websocket.WebSocketConnection, codec: Codec, *, patience: float = 3600.0
    ) -> None:
        """``patience`` is how many seconds it waits for one message."""
        self.socket = socket
        self.codec = codec
        self.patience = patience
        self.greeting: Envelope
        """The first message."""
        self.link: Link
        """What is between it and its node, where that is in memory."""
        self.events: list[Envelope] = []
        """Events that came while something else was waited for."""
        self._ids = 0

    async def send(self, t: str, **fields: Any) -> None:
        """Send one envelope."""
        payload = self.codec.encode(Envelope(t, **fields))
        await self.socket.send_message(payload if self.codec.binary else payload.decode())

    async def send_raw(self, payload: bytes | str) -> None:
        """Send one message as it is: bytes as a binary one, str as a text one."""
        await self.socket.send_message(payload)

    async def receive(self) -> Envelope:
        """The next message, whatever it is. Raises ``trio_websocket.ConnectionClosed`` and TooSlowError."""
        with trio.fail_after(self.patience):
            message = await self.socket.get_message()
        return self.codec.decode(message if isinstance(message, bytes) else message.encode())

    async def ask(self, t: str, **fields: Any) -> Envelope:
        """Send a command and return its answer; events that come before it are kept in ``events``."""
        self._ids += 1
        await self.send(t, id=self._ids, **fields)
        while True:
            answer = await self.receive()
            if answer.id == self._ids:
                return answer
            self.events.append(answer)

    async def event(self) -> Envelope:
        """The next event; fails when another message comes first."""
        if self.events:
            return self.events.pop(0)
        answer = await self.receive()
        assert answer.t == "event", answer
        return answer

    async def closed(self) -> trio_websocket.CloseReason:
        """Read until the node has closed; what came before that is kept in ``events``."""
        while True:
            try:
                self.events.append(await self.receive())
            except trio_websocket.ConnectionClosed as closed:
                assert closed.reason is not None
                return closed.reason

    async def settled(self) -> list[Envelope]:
        """Everything that had been queued for this client before now (a ping goes last)."""
        await self.ask("ping")
        events, self.events = self.events, []
        return events

    async def greet(self) -> None:
        """Take the greeting, which must be the first message."""
        self.greeting = await self.receive()
        assert self.greeting.t == "connected", self.greeting
