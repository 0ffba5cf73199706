"""The pytest plugin: fixtures for tests that need a gateway (docs/testing.md).

pytest loads this wherever the gateway is installed, so nothing of the gateway is imported
before a test asks for it, and nothing is demanded of those who do not.
"""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gateway.testing.node import Node
    from gateway.testing.server import Server

if importlib.util.find_spec("pytest_trio") is not None:
    from pytest_trio import trio_fixture

    def pytest_itemcollected(item: pytest.Item) -> None:
        """Have tests that take ``trireme`` run by Trio, on a virtual clock unless they bring one."""
        if "trireme" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.trio(run=_run))

    @trio_fixture  # type: ignore[untyped-decorator]
    async def trireme(trireme_settings: dict[str, Any]) -> AsyncIterator[Node]:
        """A running node in memory; see ``gateway.testing.node``."""
        from gateway.testing.node import run_node

        async with run_node(**trireme_settings) as node:
            yield node

else:

    @pytest.fixture
    def trireme() -> None:
        """Say what is missing."""
        pytest.fail("the fixture trireme needs pytest-trio: pip install 'trireme-gateway[testing]'")


def _run(main: Any, clock: Any = None, instruments: Any = ()) -> Any:
    """As ``trio.run``: whenever all wait, time jumps to where somebody goes on."""
    import trio
    from trio.testing import MockClock

    return trio.run(main, clock=clock or MockClock(autojump_threshold=0), instruments=instruments)


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "trireme(**settings): settings of the gateway that the test gets")


@pytest.fixture
def trireme_server(trireme_settings: dict[str, Any]) -> Iterator[Server]:
    """A gateway on a real port, in a thread: for tests without Trio; see ``gateway.testing.server``."""
    from gateway.testing.server import run_server

    with run_server(**trireme_settings) as server:
        yield server


@pytest.fixture
def trireme_settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings of the test's gateway: those of its ``trireme`` markers. A project may have its own."""
    settings: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("trireme"))):
        settings |= marker.kwargs
    return settings
