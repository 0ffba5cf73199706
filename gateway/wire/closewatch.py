"""Finding the peer's Close in the bytes on their way to the slow lane's library.

Close codes have been registered since the library was written (1014, and some day others), which it
takes for errors. So a Close that :func:`~protocol.frames.parse_close` permits is answered by the wire
itself, and never reaches the library. For that only the heads of frames are looked at.
"""

from __future__ import annotations

from typing import Final

from protocol.frames import CLOSE, parse_close

__all__ = ["CloseWatch"]

_LARGEST: Final = 2 + 4 + 125
"""Bytes of a whole control frame from a client (RFC 6455, section 5.5)."""


class CloseWatch:
    """Follows the frames of one connection, beginning in front of one."""

    def __init__(self) -> None:
        self._skip = 0
        """Bytes still to come of a frame that is no Close."""
        self._begun = b""
        """What there is of a frame whose head is not whole, or of a Close."""

    def find(self, data: bytes) -> tuple[int, int] | None:
        """Look at the next bytes: where in them the first Close begins (0 if earlier), and its code.

        A Close that is ill-formed is not found.
        """
        position = min(self._skip, len(data))
        self._skip -= position
        while position < len(data):
            frame = self._begun + data[position : position + _LARGEST]
            start, self._begun = position - len(self._begun), b""
            size = _size(frame)
            is_close = frame[0] & 15 == CLOSE
            if size is None or (is_close and len(frame) < size <= _LARGEST):
                self._begun = frame
                return None
            if is_close and size <= _LARGEST:
                code = _close_code(frame[:size])
                if code is not None:
                    return max(start, 0), code
            position = start + size
            self._skip = max(0, position - len(data))
        return None


def _size(frame: bytes) -> int | None:
    """Of the whole frame that begins so; None while its head is not whole."""
    if len(frame) < 2:
        return None
    length = frame[1] & 127
    head = 2 + (2 if length == 126 else 8 if length == 127 else 0)
    if len(frame) < head:
        return None
    if head > 2:
        length = int.from_bytes(frame[2:head], "big")
    return head + (4 if frame[1] & 128 else 0) + length


def _close_code(frame: bytes) -> int | None:
    if frame[0] != 128 | CLOSE or not frame[1] & 128:  # a fragment, a reserved bit, no mask
        return None
    key, payload = frame[2:6], frame[6:]
    parsed = parse_close(bytes(byte ^ key[at % 4] for at, byte in enumerate(payload)))
    return None if parsed is None else parsed[0]
