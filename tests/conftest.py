"""Fixtures for all tests."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from trio.testing import MockClock

from gateway.app import Gateway
from protocol.codec import Codec
from protocol.negotiation import CODECS
from tests.secure import over_tls
from tests.support import start_gateway

# Hypothesis counts examples here, not milliseconds: the machine may be busy. A test takes the profile
# that is loaded when its module is imported, so this stands in the first file of all.
hypothesis_settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("steady")


# Those whose single tests take longest, the longest first.
_LONG = (
    *("test_rolling", "store.test_kill", "store.test_inbox_failures", "fuzz.test_fuzz", "test_two_releases"),
    *("streams.test_rolling_mixed", "wire.test_life_cycle", "docs.test_pages", "chaos.test_chaos"),
    *("test_workers", "store.test_execution_failures", "store.test_kill_steps", "cluster.test_failures"),
    *("e2e.test_pages", "test_cli", "test_packaging", "store.test_approval_failures", "cluster.test_leases"),
    *("e2e.test_browser_client", "client.test_client_gateway", "store.test_told_events"),
)
_RANK = {f"tests.{name}": rank for rank, name in enumerate(_LONG)}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long tests: at the end, all processes but one would wait for one of them."""

    def rank(item: pytest.Item) -> int:
        module = item.getparent(pytest.Module)
        return _RANK.get(module.obj.__name__ if module else "", len(_RANK))

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """Let the cycle collector leave alone what thousands of collected tests consist of."""
    gc.collect()
    gc.freeze()


@pytest.fixture
async def gateway(nursery: trio.Nursery) -> AsyncIterator[Gateway]:
    """A running gateway on a free port, in the test's own Trio loop."""
    yield await start_gateway(nursery)


@pytest.fixture(params=CODECS.values(), ids=lambda codec: codec.name)
def codec(request: pytest.FixtureRequest) -> Codec:
    """Each codec in turn."""
    found: Codec = request.param
    return found


@pytest.fixture(params=["plain", "tls"])
def plain_and_tls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """Gateways and clients of the test speak over plain sockets, then over TLS."""
    with over_tls(tmp_path) if request.param == "tls" else contextlib.nullcontext():
        yield


@pytest.fixture
def clock() -> MockClock:
    """A virtual clock that jumps whenever nothing else can be done; a test that takes it runs on it."""
    return MockClock(autojump_threshold=0)
