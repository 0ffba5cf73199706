"""The gateway's end of a WebSocket, on either event loop: wsproto over any stream."""

from __future__ import annotations

from typing import NamedTuple

import anyio
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from gateway.client.inbox import Inbox, InboxClosed
from tests.client.loops import Stream

__all__ = ["PeerClosed", "PeerSocket", "Reason"]


class Reason(NamedTuple):
    """Of a Close frame; 1006 when there was none."""

    code: int
    reason: str | None


class PeerClosed(Exception):
    """The client closed."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class PeerSocket:
    """Reads one message ahead; answers pings and Close frames while :meth:`run` runs."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._ws = WSConnection(ConnectionType.SERVER)
        self._inbox: Inbox[bytes | str] = Inbox(1)
        self._over = anyio.Event()
        self.closed: Reason | None = None

    async def request(self) -> Request:
        """Wait for the handshake. Raises :class:`PeerClosed`."""
        while True:
            for event in await self._events():
                if isinstance(event, Request):
                    return event

    async def accept(self, subprotocol: str | None) -> None:
        await self._send(AcceptConnection(subprotocol=subprotocol))

    async def reject(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        headers = [*headers, (b"Content-Length", str(len(body)).encode())]
        await self._send(RejectConnection(status_code=status, headers=headers, has_body=True))
        await self._send(RejectData(data=body))

    async def run(self) -> None:
        """Read until the end."""
        parts: list[bytes] | list[str] = []
        try:
            while True:
                for event in await self._events():
                    match event:
                        case Ping():
                            await self._send(event.response())
                        case BytesMessage() | TextMessage():
                            parts.append(event.data)  # type: ignore[arg-type]
                            if event.message_finished:
                                empty = b"" if isinstance(event, BytesMessage) else ""
                                await self._inbox.put(empty.join(parts))  # type: ignore[arg-type]
                                parts = []
                        case CloseConnection():
                            self.closed = Reason(event.code, event.reason)
                            if self._ws.state is ConnectionState.REMOTE_CLOSING:
                                await self._send(event.response())
                            return
        except PeerClosed:
            pass
        finally:
            self.closed = self.closed or Reason(1006, None)
            self._inbox.close()
            self._over.set()
            with anyio.CancelScope(shield=True):
                await self._stream.aclose()

    async def _events(self) -> list[Event]:
        try:
            data = await self._stream.receive_some(65536)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        try:
            self._ws.receive_data(bytes(data) or None)
            events = list(self._ws.events())
        except RemoteProtocolError:
            events = []
        if not data and not events:
            raise PeerClosed(Reason(1006, None))
        return events

    async def _send(self, event: Event) -> None:
        try:
            await self._stream.send_all(self._ws.send(event))
        except (LocalProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
            raise PeerClosed(self.closed or Reason(1006, None)) from None

    async def get_message(self) -> bytes | str:
        try:
            return await self._inbox.get()
        except InboxClosed:
            assert self.closed is not None
            raise PeerClosed(self.closed) from None

    async def send_message(self, message: bytes | str) -> None:
        if self.closed is not None:
            raise PeerClosed(self.closed)
        await self._send(BytesMessage(message) if isinstance(message, bytes) else TextMessage(message))

    async def aclose(self, code: int, reason: str = "") -> None:
        """Say goodbye, and wait for the answer."""
        if self.closed is None:
            await self._send(CloseConnection(code=code, reason=reason or None))
            await self._over.wait()
