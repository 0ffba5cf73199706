"""The guard at the door: everything that can keep a peer from connecting, in one place."""

from __future__ import annotations

from gateway.auth.identity import Identity
from gateway.limits.limiter import Limiters
from gateway.limits.overload import Overload
from gateway.limits.suspicion import Suspicion
from gateway.settings import Settings
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["Guard"]


class Guard:
    """Rates, suspicion and load shedding of one node. Times are Trio's, in seconds."""

    def __init__(self, settings: Settings) -> None:
        self._limits = settings.limits
        self._open: dict[str, int] = {}
        self.limiters = Limiters(settings.rates)
        self.overload = Overload(settings.overload)
        self.suspicion = Suspicion(
            settings.suspicion,
            failed_logins_per_ip=settings.rates.failed_logins_per_ip,
            burst=settings.rates.burst,
        )

    def knock(self, ip: str, now: float) -> None:
        """A peer wants to connect, and only its address is known; raises 300, 301 or 402."""
        self._wait(self.suspicion.blocked(ip, now), "this address is refused for a while")
        if self.overload.reason is not None:
            self.overload.refused += 1
            raise ProtocolError(
                ErrorCode.OVERLOADED, "the gateway is overloaded", retry_after=self.overload.retry_after
            )
        self.suspicion.note("connections", ip, now)
        self._wait(self.limiters.connecting(ip, None, now), "too many connections from this address")
        self._bound(self._open.get(ip, 0), self._limits.connections_per_ip, "address")

    def identify(self, identity: Identity, ip: str, now: float, *, of_user: int, of_org: int) -> None:
        """The peer has shown who it is; ``of_user`` and ``of_org`` are open already. Raises 300 or 402."""
        self._wait(self.limiters.connecting(ip, identity, now), "too many connections at once")
        if identity.user is not None:
            self._bound(of_user, self._limits.connections_per_user, "user")
        self._bound(of_org, self._limits.connections_per_organisation, "organisation")

    def failed_login(self, ip: str, now: float) -> None:
        """A token or ticket from this address did not verify."""
        self.suspicion.note("failed_logins", ip, now)

    def opened(self, ip: str) -> None:
        """A connection from this address is open."""
        self._open[ip] = self._open.get(ip, 0) + 1

    def closed(self, ip: str) -> None:
        """It is gone."""
        left = self._open[ip] - 1
        if left:
            self._open[ip] = left
        else:
            del self._open[ip]

    def _wait(self, seconds: float, message: str) -> None:
        if seconds:
            raise ProtocolError(ErrorCode.RATE_LIMITED, message, retry_after=max(round(seconds, 3), 0.001))

    def _bound(self, count: int, bound: int, whose: str) -> None:
        if bound and count >= bound:
            raise ProtocolError(
                ErrorCode.TOO_MANY_CONNECTIONS,
                f"this {whose} is limited to {bound} connections",
                retry_after=1.0,
            )
