"""How much of everything there is in a soak."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ORGANISATIONS", "RECIPIENTS", "ROOMS", "Plan"]

ORGANISATIONS = 4
ROOMS = 50
"""Of each organisation, beside its ``busy`` one."""
RECIPIENTS = 10
"""Users of each organisation to whom is sent."""


@dataclass(frozen=True)
class Plan:
    """Rates are per second, and of all organisations together."""

    seconds: float = 1800.0
    connections: int = 2000
    processes: int = 4
    """Which the clients share."""
    slow: float = 0.02
    """Part of the clients that stop to read now and then."""
    streams: float = 0.05
    """Part of them that hears by server-sent events."""
    polls: float = 0.025
    """Part of them that polls."""
    rooms_rate: float = 8.0
    """Events to rooms of some 20 members."""
    organisation_rate: float = 0.1
    """Events to a whole organisation."""
    busy_rate: float = 8.0
    """Events of ``busy_bytes`` to the rooms of the slow readers."""
    busy_bytes: int = 8000
    users_rate: float = 4.0
    """Events to a user."""
    moves: float = 4.0
    """Clients that leave a room and join another."""
    cuts: float = 2.0
    """Connections that break under their client."""
    ends: float = 1.0
    """Clients that say goodbye, and new ones in their place."""
    deaths: float = 1.0
    """Clients that are killed, and new ones in their place."""

    @property
    def interval(self) -> float:
        """Seconds between two samples."""
        return max(1.0, min(5.0, self.seconds / 120))

    @property
    def resume_ttl(self) -> float:
        """Seconds that notes of ended connections are kept: short beside the windows that are compared."""
        return max(5.0, self.seconds / 30)
