"""The extension in the measured nodes: tells a service what the node holds."""

from __future__ import annotations

from typing import Any

from gateway import Caller, Gateway

NAME = "soak.census"


def setup(gateway: Gateway) -> None:
    """Answer calls of ``NAME`` with ``Gateway.census()``."""

    async def census(caller: Caller, data: Any) -> dict[str, float]:
        return gateway.census()

    gateway.command(NAME, roles=["service"])(census)
