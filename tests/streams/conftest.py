"""What the tests of streams on several nodes share."""

from __future__ import annotations

from tests.broker.conftest import shared_redis

__all__ = ["shared_redis"]
