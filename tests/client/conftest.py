"""Fixtures for the client's tests: those that take ``scripted`` run on Trio and on asyncio."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from tests.client import loops
from tests.client.scripted import ScriptedGateway


@pytest.fixture(params=loops.LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    """The event loop of a test that takes ``scripted``."""
    found: str = request.param
    return found


@pytest.fixture
def scripted(loop: str) -> ScriptedGateway:
    """A gateway that says only what the test tells it to; it begins with the test."""
    return ScriptedGateway(None)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Take the tests that run on both loops out of pytest-trio's hands."""
    for item in items:
        if (
            isinstance(item, pytest.Function)
            and "scripted" in item.fixturenames
            and inspect.iscoroutinefunction(item.obj)
        ):
            item.own_markers = [mark for mark in item.own_markers if mark.name != "trio"]
            item.obj = _on_its_loop(item, item.obj)


def _on_its_loop(item: pytest.Function, function: Callable[..., Any]) -> Callable[..., None]:
    @functools.wraps(function)
    def run(**arguments: Any) -> None:
        gateway: ScriptedGateway = item.funcargs["scripted"]

        async def main() -> None:
            async with anyio.create_task_group() as tasks:
                gateway.begin(tasks)
                await function(**arguments)
                tasks.cancel_scope.cancel()

        loops.run(item.funcargs["loop"], main, item.funcargs.get("clock"))

    del run.__wrapped__  # type: ignore[attr-defined]  # or it would still look like a coroutine function
    return run
