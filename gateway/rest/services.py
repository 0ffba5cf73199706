"""What the REST resources need of the rest of the gateway, and how a handler gets at it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from quart import current_app

from gateway.metrics import Metrics

if TYPE_CHECKING:
    from gateway.admission import Admission
    from gateway.auth.identity import Identity
    from gateway.broker.base import Broker
    from gateway.calls.registry import Calls
    from gateway.cluster.base import Cluster
    from gateway.config.settings import Settings
    from gateway.hub.hub import Hub
    from gateway.limits.guard import Guard
    from gateway.operations import Operations
    from protocol.envelope import Envelope

__all__ = ["EXTENSION", "Services", "services"]

EXTENSION: Final = "trireme"


@dataclass
class Services:
    """The parts of one gateway that its REST side uses."""

    settings: Settings
    hub: Hub
    broker: Broker
    cluster: Cluster
    operations: Operations
    admission: Admission
    node: str
    is_draining: Callable[[], bool]
    started_at: float
    """Seconds since 1970 UTC."""
    guard: Guard
    calls: Calls
    commands: Callable[[Identity, str, str | None, Sequence[bytes]], Awaitable[list[Envelope]]]
    """Does posted commands (``gateway/session/posted.py``), given who asks, from which address and with what
    client."""
    metrics: Metrics = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(
            self.hub,
            self.cluster,
            self.guard,
            self.calls,
            started_at=self.started_at,
            is_draining=self.is_draining,
            measures=self.operations.measures,
        )


def services() -> Services:
    """Return the services of the application that handles the current request."""
    found: Services = current_app.extensions[EXTENSION]
    return found
