"""What every session of a node shares, and what is known of a client before it has said anything."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.admission import Admission
from gateway.auth.tokens import Authenticator
from gateway.calls.registry import Calls
from gateway.cluster.base import Cluster
from gateway.config.settings import Settings
from gateway.hub.hub import Hub
from gateway.limits.guard import Guard
from gateway.operations import Operations

__all__ = ["Client", "Services"]


@dataclass(slots=True)
class Services:
    """The parts of a node that its sessions use."""

    settings: Settings
    hub: Hub
    auth: Authenticator
    cluster: Cluster
    calls: Calls
    guard: Guard = field(init=False)
    admission: Admission = field(init=False)
    operations: Operations = field(init=False)

    def __post_init__(self) -> None:
        self.guard = guard = Guard(self.settings)
        self.admission = Admission(
            self.auth, self.cluster, guard, self.hub, in_band=self.settings.auth.in_band
        )
        self.operations = Operations(self.settings, self.hub, self.cluster, self.auth, guard.overload)


@dataclass(frozen=True, slots=True)
class Client:
    """What the request for a connection told of the client."""

    ip: str
    user_agent: str | None = None
    client_id: str | None = None
