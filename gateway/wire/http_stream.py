"""The stream under one HTTP connection: what was already read, deadlines, and a close that is heard."""

from __future__ import annotations

from typing import Any, Final

import trio

__all__ = ["ReplayStream", "TlsReplayStream", "replay"]

_PIECE: Final = 65536
_LINGER_SECONDS: Final = 1.0
_LINGER_BYTES: Final = 4 * 2**20


class ReplayStream(trio.abc.HalfCloseableStream):
    """Gives ``unread`` first, then what the stream below receives.

    Each 64 KiB piece that is sent has ``send_timeout`` seconds to be taken by the peer; then the
    stream below is closed and ``BrokenResourceError`` raised. That deadline has to be in here: who
    sends above us does so shielded from cancellation.
    """

    def __init__(self, stream: trio.abc.Stream, unread: bytes, *, send_timeout: float) -> None:
        self._stream = stream
        self._unread = unread
        self._send_timeout = send_timeout
        self._closed = False
        self._detached = False
        self._ended = False
        self._reading: trio.CancelScope | None = None
        self._sending: trio.CancelScope | None = None
        self._turn = trio.Lock()
        self.unheard = False
        """The peer did not take, or could not get, what was sent."""
        self.linger = False
        """Set when the peer may still be sending: closing at once would reset the connection,
        and the reset may overtake our answer (RFC 9112, section 9.6)."""

    @property
    def socket(self) -> Any:
        """The transport's socket, for its addresses."""
        return self._stream.socket  # type: ignore[attr-defined]

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._closed:
            raise trio.ClosedResourceError
        if self._unread:
            await trio.lowlevel.checkpoint()
            size = len(self._unread) if max_bytes is None else max_bytes
            data, self._unread = self._unread[:size], self._unread[size:]
            return data
        with trio.CancelScope() as scope:
            self._reading = scope
            try:
                data = bytes(await self._stream.receive_some(max_bytes))
                self._ended = not data
                return data
            finally:
                self._reading = None
        raise trio.ClosedResourceError  # aclose() ended the wait

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        # The application may be sending (100 Continue, say) when the parser has a refusal to send.
        async with self._turn:
            await self._send(data)

    async def _send(self, data: bytes | bytearray | memoryview) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        view = memoryview(data)
        for start in range(0, len(view), _PIECE):
            with trio.move_on_after(self._send_timeout) as scope:
                self._sending = scope
                try:
                    await self._stream.send_all(view[start : start + _PIECE])
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self.unheard = True
                    raise
                finally:
                    self._sending = None
            if scope.cancelled_caught:
                self._closed = self.unheard = True
                await trio.aclose_forcefully(self._stream)
                raise trio.BrokenResourceError("the peer did not take the answer in time")

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        if self._closed or self._detached or not isinstance(self._stream, trio.abc.HalfCloseableStream):
            return
        try:
            self._turn.acquire_nowait()
        except trio.WouldBlock:
            raise trio.BusyResourceError("an answer is being sent") from None
        try:
            await self._stream.send_eof()
        finally:
            self._turn.release()

    async def aclose(self) -> None:
        """Close; with ``linger`` first read and drop what the peer sends, at most 1 s and 4 MiB."""
        if self._closed or self._detached:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        if self._reading is not None:
            self._reading.cancel()
        try:
            if self.linger and not self._ended:
                await self._drop_input()
        finally:
            await self._stream.aclose()

    async def _drop_input(self) -> None:
        dropped = 0
        with trio.move_on_after(_LINGER_SECONDS):
            while dropped < _LINGER_BYTES:
                try:
                    data = await self._stream.receive_some(_PIECE)
                except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
                    return
                if not data:
                    return
                dropped += len(data)

    def detach(self) -> None:
        """Leave the stream below open for somebody else; this object is done."""
        self._detached = True

    def abort(self) -> None:
        """End the waits of this stream at once, also a send that is shielded from cancellation."""
        for scope in (self._reading, self._sending):
            if scope is not None:
                scope.cancel()


class TlsReplayStream(ReplayStream):
    """The same over TLS, whose handshake the listener has done; it looks like a ``trio.SSLStream``."""

    @property
    def socket(self) -> Any:
        """The transport's socket, for its addresses."""
        return self.transport_stream.socket

    @property
    def transport_stream(self) -> Any:
        """The stream below TLS."""
        return self._stream.transport_stream  # type: ignore[attr-defined]

    async def do_handshake(self) -> None:
        """Return at once: the listener has done it."""
        await trio.lowlevel.checkpoint()

    def selected_alpn_protocol(self) -> str:
        """Only HTTP/1.1 is spoken here, whatever was offered."""
        return "http/1.1"


def replay(stream: trio.abc.Stream, unread: bytes, *, send_timeout: float) -> ReplayStream:
    """Return the wrapper that fits ``stream``: a ``SocketStream`` or an ``SSLStream`` over one."""
    kind = TlsReplayStream if hasattr(stream, "transport_stream") else ReplayStream
    return kind(stream, unread, send_timeout=send_timeout)
