"""TLS at the socket's edge: a socket that encrypts, and the bounds of its handshakes.

:class:`TlsSocket` reads, writes and waits as a plain non-blocking socket does. So pump, outbox, flusher and
shares serve a TLS connection in the same turns and with the same bounds as a plain one, and nothing of it
waits in buffers of its own: OpenSSL works on the descriptor, keeps at most one record (16 KiB) in each
direction, and frees its buffers when they are empty.

Reading. One ``recv`` gives one record. It asks for as much as a record can hold, so OpenSSL never keeps
decrypted bytes of which epoll would not know.

Writing. A record that OpenSSL could not get rid of has to be offered again as it was, but the outbox may put
an urgent frame before those that it believes to be unsent. So such a record is kept here and counts as taken.
If nothing is behind it, its last byte is reported as not taken: the outbox then knows that something is left
and waits for the socket, and the frame of which that byte is stays at the head of its queue, because it is
torn.

Handshakes. A signature takes 0.1 (P-256) to 1 ms (RSA) that cannot be divided. The steps of all handshakes
take their turns with what else newcomers cost (``gateway/wire/newcomers.py``). A peer that has sent nothing
yet costs no more than its socket, and one that waits for a place does not use up the time for its head.
"""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import trio

from gateway.networks import network_of
from gateway.wire.newcomers import Newcomers

__all__ = ["Handshakes", "TlsSocket", "TlsStream"]

_RECORD: Final = 16384
"""Bytes of plain text in one record at most (RFC 8446, section 5.1)."""
_SLICE: Final = 15 * _RECORD
"""Bytes encrypted by one ``send``; less than what an outbox joins for one, so more is known to follow."""
_UNREAD: Final = 65536
"""Bytes of a failed handshake that are read away."""
_WANTS: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
_AT_ONCE: Final = 1024
"""Handshakes begun and not finished, some 50 kB each."""
_PER_ADDRESS: Final = 64
"""The same of one network of addresses; further ones wait."""


class TlsSocket:
    """The server's end of one TLS connection; see :class:`~gateway.wire.sockets.WireSocket`."""

    __slots__ = ("_owed", "_rest", "_tls")

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        """Takes ``sock``, which is non-blocking, over. Raises OSError when its peer has gone."""
        self._tls = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self._rest = b""
        """What OpenSSL has begun to write and has to be offered again."""
        self._owed = 0
        """How many of the last bytes of ``_rest`` were not reported as taken."""

    @property
    def socket(self) -> ssl.SSLSocket:
        """For addresses."""
        return self._tls

    def do_handshake(self) -> None:
        """Take one step; raises SSLWantReadError or SSLWantWriteError until it is done, else OSError."""
        self._tls.do_handshake()

    def recv(self, size: int, /) -> bytes:
        """Read at most one record."""
        try:
            return self._tls.recv(min(size, _RECORD))
        except _WANTS:
            raise BlockingIOError from None

    def send(self, data: bytes | memoryview, /) -> int:
        """Take what there is room for, at most 240 KiB; returns how much."""
        if not self._rest and 0 < len(data) <= _RECORD:  # nearly always: without a view and its slices
            try:
                return self._tls.send(data)
            except _WANTS:
                self._rest = bytes(data)
                self._owed = 1
                return len(data) - 1
        done = 0
        if self._rest:
            self._write_rest()
            done, self._owed = self._owed, 0
        view = memoryview(data)
        end = min(len(view), _SLICE)
        while done < end:
            piece = view[done : min(done + _RECORD, end)]
            try:
                done += self._tls.send(piece)
            except _WANTS:
                self._rest = bytes(piece)
                self._owed = int(done + len(piece) == len(view))
                return done + len(piece) - self._owed
        return done

    def _write_rest(self) -> None:
        try:
            while self._rest:
                self._rest = self._rest[self._tls.send(self._rest) :]
        except _WANTS:
            raise BlockingIOError from None

    def shutdown(self, how: int, /) -> None:
        """Send ``close_notify`` and end our side; what still comes is read undeciphered, to be dropped."""
        with contextlib.suppress(OSError, ValueError):
            self._tls.unwrap()
        self._tls.shutdown(how)

    def close(self) -> None:
        """Close at once."""
        self._tls.close()

    def refuse(self) -> None:
        """Close behind the alert that OpenSSL has sent; unread bytes would reset it away."""
        with contextlib.suppress(OSError):
            self._tls.shutdown(socket.SHUT_WR)
            self._tls.recv(_UNREAD)
        self._tls.close()

    def fileno(self) -> int:
        """What to wait for."""
        return self._tls.fileno()


class TlsStream(trio.abc.HalfCloseableStream):
    """The same as a Trio stream, for HTTP. It looks like a ``trio.SSLStream`` as far as HTTP looks at it."""

    def __init__(self, sock: TlsSocket) -> None:
        """Owns ``sock`` from now on."""
        self._sock = sock

    @property
    def socket(self) -> ssl.SSLSocket:
        """For addresses."""
        return self._sock.socket

    @property
    def transport_stream(self) -> TlsStream:
        """Whose ``socket`` is asked for addresses."""
        return self

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read one record at most; empty at the end."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            self._check_open()
            try:
                chunk = self._sock.recv(_RECORD if max_bytes is None else max_bytes)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._sock)
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return chunk

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of ``data``."""
        await trio.lowlevel.checkpoint()
        view = memoryview(data)
        while view:
            self._check_open()
            try:
                view = view[self._sock.send(view) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._sock)
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room."""
        self._check_open()
        await trio.lowlevel.wait_writable(self._sock)

    async def send_eof(self) -> None:
        """Say that nothing more comes."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def aclose(self) -> None:
        """Say ``close_notify`` as far as there is room, and close."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
            self._sock.close()
        await trio.lowlevel.checkpoint()

    def _check_open(self) -> None:
        if self._sock.fileno() < 0:
            raise trio.ClosedResourceError


class Handshakes:
    """All handshakes of a listener."""

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        newcomers: Newcomers | None = None,
        at_once: int = _AT_ONCE,
        per_address: int = _PER_ADDRESS,
    ) -> None:
        """At most ``at_once`` of all addresses and ``per_address`` of one are under way; others wait."""
        self._newcomers = newcomers or Newcomers()
        context.options |= ssl.OP_NO_RENEGOTIATION  # cheap to ask for, dear to answer
        self._context = context
        self._per_address = per_address
        self._places = trio.CapacityLimiter(at_once)
        self._addresses: dict[str, trio.CapacityLimiter] = {}

    @property
    def under_way(self) -> int:
        """Begun and not finished."""
        return self._places.borrowed_tokens

    async def secure(
        self, sock: socket.socket, address: str, scope: trio.CancelScope | None = None
    ) -> TlsSocket:
        """Shake hands over ``sock``, which is closed if that fails.

        The wait for a place does not count against the deadline of ``scope``; it has a bound of its own, as
        long as what is left until then. Raises OSError when the peer went away or asks for what is not
        offered.
        """
        await trio.lowlevel.wait_readable(sock)
        left = math.inf if scope is None else scope.deadline - trio.current_time()
        async with self._place(address):
            if scope is not None:
                scope.deadline = trio.current_time() + left
            tls = await self._newcomers.turn(lambda: TlsSocket(sock, self._context))
            try:
                while (wait := await self._newcomers.turn(lambda: _step(tls))) is not None:
                    await wait(tls)
                return tls
            except BaseException:
                tls.refuse()
                raise

    @contextlib.asynccontextmanager
    async def _place(self, address: str) -> AsyncIterator[None]:
        whose = network_of(address)
        ours = self._addresses.get(whose)
        if ours is None:
            ours = self._addresses[whose] = trio.CapacityLimiter(self._per_address)
        try:
            async with _taken(ours), _taken(self._places):
                yield
        finally:
            statistics = ours.statistics()
            if not (statistics.borrowed_tokens or statistics.tasks_waiting):
                self._addresses.pop(whose, None)


def _step(tls: TlsSocket) -> Callable[[TlsSocket], Awaitable[None]] | None:
    """Take one step of a handshake; returns what to wait for, or None when it was the last."""
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return trio.lowlevel.wait_readable
    except ssl.SSLWantWriteError:
        return trio.lowlevel.wait_writable
    return None


@contextlib.asynccontextmanager
async def _taken(places: trio.CapacityLimiter) -> AsyncIterator[None]:
    """Hold one of ``places``; costs no pass of the loop while there are any."""
    try:
        places.acquire_nowait()
    except trio.WouldBlock:
        await places.acquire()
    try:
        yield
    finally:
        places.release()
