"""Gateways that die at a step: ``python -m tests.kill.mortal_gateways``."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import trio

from gateway import store
from gateway.app import Gateway
from gateway.cluster import many
from gateway.config.settings import CallSettings
from gateway.operations import execution_upkeep
from gateway.testing.settings import make_settings
from tests.kill.lives import live_and_die
from tests.kill.steps import arm


def serve(output: int, said: dict[str, Any]) -> None:
    """A gateway until it dies; it looks for stale executions every ``look`` seconds."""
    assert store and many  # imported before the fork, and so once
    arm(said["step"], said["nth"])
    execution_upkeep._LATEST = said["look"]

    async def main() -> None:
        calls = msgspec.convert(said["settings"].pop("calls"), dict[str, CallSettings])
        made = Gateway(make_settings(**said["settings"], calls=calls))
        async with trio.open_nursery() as nursery:
            await nursery.start(made.run)
            os.write(output, f"port {made.port} pid {os.getpid()}\n".encode())
            await trio.sleep_forever()

    trio.run(main)


if __name__ == "__main__":
    live_and_die(serve)
