"""Server-sent events, from bytes to messages (WHATWG HTML, section 9.2). Pure."""

from __future__ import annotations

from typing import Final

__all__ = ["EventStreamParser", "EventTooLarge"]

_MARK: Final = b"\xef\xbb\xbf"


class EventTooLarge(Exception):
    """An event is larger than what was allowed."""


class EventStreamParser:
    """Cuts a stream into the ``data`` of its events. Ids and names of events are not needed here."""

    def __init__(self, max_bytes: int) -> None:
        """``max_bytes`` bounds what waits for the end of its event."""
        self._max_bytes = max_bytes
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0
        self._first = True

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that ``chunk`` completes. Raises :class:`EventTooLarge`."""
        lines = (self._rest + chunk).replace(b"\r\n", b"\n").split(b"\n")
        self._rest = lines.pop()
        if self._size + len(self._rest) > self._max_bytes:
            raise EventTooLarge
        found = []
        for line in lines:
            if self._first:
                line = line.removeprefix(_MARK)
                self._first = False
            line = line.removesuffix(b"\r")
            if not line:
                if self._data:
                    found.append(b"\n".join(self._data))
                self._data, self._size = [], 0
            elif line.startswith(b"data:"):
                data = line[5:].removeprefix(b" ")
                self._data.append(data)
                self._size += len(data)
                if self._size > self._max_bytes:
                    raise EventTooLarge
        return found
