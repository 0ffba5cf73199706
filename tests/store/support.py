"""What the tests of the store share."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import pytest
from sqlalchemy import create_engine, text

from gateway.config.settings import StoreSettings
from gateway.store import Created, Store
from protocol.errors import ErrorCode, ProtocolError


class Clock:
    """Time that a test sets, in milliseconds."""

    def __init__(self) -> None:
        self.now = 1_760_000_000_000

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += int(seconds * 1000)


def opened(address: str, clock: Clock | None = None, owner: str | None = None, **changed: Any) -> (
    AbstractAsyncContextManager[Store]
):  # fmt: skip
    """A store with these settings changed; nothing is removed unless the test does it."""
    settings = msgspec.structs.replace(StoreSettings(), **changed)
    more = {} if clock is None else {"clock": clock}
    return Store.open(address, settings, owner=owner, retention=False, **more)


async def create(store: Store, *users: str, org: str = "acme", **fields: Any) -> Created:
    """A notification with what a test does not care about."""
    found = {"type": "info", "title": "Hello", "message": "there"} | fields
    return await store.notifications.create(org, users or ("alice",), **found)


async def refused(code: ErrorCode, awaitable: Any) -> ProtocolError:
    """The error with which it must be refused."""
    with pytest.raises(ProtocolError) as caught:
        await awaitable
    assert caught.value.code == code, caught.value
    if 300 <= code < 400:
        assert caught.value.retry_after
    return caught.value


def rows(address: str, statement: str) -> list[Any]:
    """What the database says by itself."""
    engine = create_engine(address)
    try:
        with engine.begin() as connection:
            found = connection.execute(text(statement))
            return list(found) if found.returns_rows else []
    finally:
        engine.dispose()
