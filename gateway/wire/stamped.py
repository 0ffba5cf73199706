"""An outbox whose frames are shared with others up to a few bytes, which are replaced as a frame is queued.

So an event goes out encoded once for all, and yet each connection gets its own mark in it.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.wire.flusher import Flusher
from gateway.wire.outbox import Outbox
from gateway.wire.sockets import WireSocket
from protocol.stamps import RENEWS, STAMP

__all__ = ["StampedOutbox"]


class StampedOutbox(Outbox):
    """Puts ``stamp`` in the place of ``STAMP``. A stamp is good for all that was queued before it."""

    __slots__ = ("on_renewal", "stamp", "stamper")

    stamped = True

    def __init__(
        self, flusher: Flusher, sock: WireSocket | None, *, max_messages: int, max_bytes: int
    ) -> None:
        """See :class:`Outbox`."""
        super().__init__(flusher, sock, max_messages=max_messages, max_bytes=max_bytes)
        self.stamp = b""
        self.stamper: Callable[[bytes], bytes] | None = None
        """Completes each frame that holds ``STAMP``, where one stamp for all does not do."""
        self.on_renewal: Callable[[], None] | None = None
        """Called when a frame that begins with ``RENEWS`` is queued, before it is stamped; sets ``stamp``."""

    def put(self, frame: bytes) -> bool:
        """See :class:`Outbox`."""
        if self.share.broadcasts:
            self.share.catch_up(self)
        return self.append(frame)

    def append(self, frame: bytes) -> bool:
        """See :class:`Outbox`."""
        return super().append(self._stamped(frame))

    def keep(self, frames: list[bytes], taken: int) -> None:
        """See :class:`Outbox`; ``taken`` counts in stamped frames."""
        super().keep([self._stamped(frame) for frame in frames], taken)

    def _stamped(self, frame: bytes) -> bytes:
        if frame[0] == RENEWS:
            if self.on_renewal is not None:
                self.on_renewal()
            frame = frame[1:]
        if self.stamper is not None and STAMP in frame:
            return self.stamper(frame)
        return frame.replace(STAMP, self.stamp)
