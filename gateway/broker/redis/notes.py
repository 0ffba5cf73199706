"""What nodes remember for each other, each organisation within its share.

One organisation's notes are three keys with one hash tag: name → value, name → deadline, and the sum of their
bytes. What cannot be written now is kept here, within bounds, and tried again.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from typing import Final

import trio

from gateway.broker.redis.client import Client
from gateway.broker.redis.scripts import RECALL, REMEMBER, RememberCall, pack
from gateway.broker.redis.turns import Wake
from protocol.errors import ProtocolError

__all__ = ["SharedNotes"]

_PAUSE: Final = 0.2
"""Seconds until what could not be written is tried again."""
_UNWRITTEN: Final = 10_000
_UNWRITTEN_BYTES: Final = 16 * 2**20
_AT_ONCE: Final = 64
_NOTE_BYTES: Final = 200
"""What a note takes beside its name and value (measured with MEMORY USAGE)."""

_Name = tuple[str, str]


class SharedNotes:
    """All notes of this node's broker."""

    def __init__(self, client: Client, share: int) -> None:
        """``share``: bytes that the notes of one organisation may take in Redis."""
        self._client = client
        self._share = share
        self._unwritten: OrderedDict[_Name, tuple[bytes, float]] = OrderedDict()
        self._bytes = 0
        self._noted = Wake()

    def set(self, org: str, key: str, value: bytes, ttl: float) -> None:
        """Keep ``value`` for ``ttl`` seconds."""
        name = org, key
        self._forget(name)
        self._unwritten[name] = (value, time.time() + ttl)
        self._bytes += len(value)
        while len(self._unwritten) > _UNWRITTEN or self._bytes > _UNWRITTEN_BYTES:
            self._forget(next(iter(self._unwritten)))
        self._noted.set()

    async def get(self, org: str, key: str) -> bytes | None:
        """What is kept; raises BROKER_UNAVAILABLE."""
        if (org, key) in self._unwritten:
            return self._unwritten[org, key][0]
        found: bytes | None = await self._client.run_script(RECALL, self._keys(org)[:2], [key])
        if found is None:  # where nodes of the release before keep it, from which clients come during a roll
            name = self._client.key("note", key)
            found = await self._client.call(name, b"GET", name)
        return found

    async def run(self) -> None:
        """Write what is noted, until cancelled."""
        while True:
            await self._noted.wait()
            while self._unwritten:
                failures: list[ProtocolError] = []
                async with trio.open_nursery() as nursery:
                    for name in list(self._unwritten)[:_AT_ONCE]:
                        nursery.start_soon(self._write, name, failures)
                if failures:
                    await trio.sleep(_PAUSE)

    async def written(self) -> None:
        """Wait until nothing is unwritten."""
        while self._unwritten:  # noqa: ASYNC110 - only at shutdown
            await trio.sleep(_PAUSE / 10)

    def _forget(self, name: _Name) -> None:
        self._bytes -= len(self._unwritten.pop(name, (b"", 0.0))[0])

    async def _write(self, name: _Name, failures: list[ProtocolError]) -> None:
        note = self._unwritten[name]
        org, key = name
        value, until = note
        left = math.ceil((until - time.time()) * 1000)
        if left > 0:
            call = RememberCall(key, left, self._share, _NOTE_BYTES)
            try:
                await self._client.run_script(REMEMBER, self._keys(org), [pack(call), value])
            except ProtocolError as error:
                failures.append(error)
                return
        if self._unwritten.get(name) is note:
            self._forget(name)

    def _keys(self, org: str) -> list[str]:
        values = self._client.key("notes", org)
        return [values, f"{values}:until", f"{values}:bytes"]
