"""The guard at the door: everything that can keep a peer from connecting, in one place."""

from __future__ import annotations

from typing import Final

from gateway.auth.identity import Identity
from gateway.config.settings import Settings
from gateway.limits.addresses import Addresses
from gateway.limits.limiter import Limiters, rate_limited
from gateway.limits.overload import Overload
from gateway.limits.suspicion import Suspicion
from gateway.networks import network_of
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["LOGIN_FAILURES", "Guard"]

LOGIN_FAILURES: Final = frozenset(
    {ErrorCode.UNAUTHENTICATED, ErrorCode.TOKEN_EXPIRED, ErrorCode.TOKEN_REVOKED}
)
"""Refusals that count as failed logins of their address."""


class Guard:
    """Rates, suspicion and load shedding of one node. Times are Trio's, in seconds."""

    def __init__(self, settings: Settings) -> None:
        self._limits = settings.limits
        self._open: dict[str, int] = {}
        self._sockets: dict[str, int] = {}
        """Network of the peer → its connections, of every kind; those of trusted proxies are not counted."""
        self.addresses = Addresses(settings.trusted_proxies)
        self.limiters = Limiters(settings.rates)
        self.overload = Overload(settings.overload, workers=settings.workers)
        self.suspicion = Suspicion(
            settings.suspicion,
            failed_logins_per_ip=settings.rates.failed_logins_per_ip,
            burst=settings.rates.burst,
        )

    def enter(self, peer: str) -> bool:
        """A socket of this peer was accepted; False when that is one too many. ``leave`` must follow."""
        if not self._limits.connections_per_ip or self.addresses.is_trusted(peer):
            return True
        whose = network_of(peer)
        count = self._sockets[whose] = self._sockets.get(whose, 0) + 1
        return count <= self._limits.connections_per_ip

    def leave(self, peer: str) -> None:
        """It is closed."""
        whose = network_of(peer)
        left = self._sockets.pop(whose, 0) - 1
        if left > 0:
            self._sockets[whose] = left

    def check_address(self, ip: str, now: float) -> None:
        """A peer wants anything at all; raises 300 while its address is refused."""
        self._wait(self.suspicion.blocked(ip, now), "this address is refused for a while")

    def knock(self, ip: str, now: float) -> None:
        """A peer wants to connect, and only its address is known; raises 300, 301 or 402."""
        self.check_address(ip, now)
        if self.overload.reason is not None:
            self.overload.refused += 1
            raise ProtocolError(
                ErrorCode.OVERLOADED, "the gateway is overloaded", retry_after=self.overload.retry_after
            )
        self.suspicion.note("connections", ip, now)
        self._wait(self.limiters.connecting(ip, None, now), "too many connections from this address")
        self._bound(self._open.get(network_of(ip), 0), self._limits.connections_per_ip, "address")

    def identify(self, identity: Identity, ip: str, now: float, *, of_user: int, of_org: int) -> None:
        """The peer has shown who it is; ``of_user`` and ``of_org`` are open already. Raises 300 or 402."""
        self._wait(self.limiters.connecting(ip, identity, now), "too many connections at once")
        if identity.user is not None:
            self._bound(of_user, self._limits.connections_per_user, "user")
        self._bound(of_org, self._limits.connections_per_organisation, "organisation")

    def login_refused(self, error: ProtocolError, ip: str, now: float) -> None:
        """A peer at this address was refused; counts when the token or ticket did not verify."""
        if error.code in LOGIN_FAILURES:
            self.suspicion.note("failed_logins", ip, now)

    def request(self, identity: Identity, ip: str, size: int, now: float) -> None:
        """A command of ``size`` bytes comes over HTTP, where there is no connection; raises 300."""
        limiter = self.limiters.limiter(identity, ip, of_connection=False)
        if limiter is not None:
            self._wait(limiter.admit("request", size, now), "too many commands")

    def reached(self, identity: Identity, ip: str, number: int, now: float) -> None:
        """A command over HTTP was for so many users beside its first; what follows waits."""
        limiter = self.limiters.limiter(identity, ip, of_connection=False)
        if limiter is not None:
            limiter.reached(number, now)

    def opened(self, ip: str) -> None:
        """A connection from this address is open."""
        whose = network_of(ip)
        self._open[whose] = self._open.get(whose, 0) + 1

    def closed(self, ip: str) -> None:
        """It is gone."""
        whose = network_of(ip)
        left = self._open[whose] - 1
        if left:
            self._open[whose] = left
        else:
            del self._open[whose]

    def census(self) -> dict[str, int]:
        """Count what is held of addresses now."""
        return {"addresses": len(self._open), "peers": len(self._sockets), "suspects": len(self.suspicion)}

    def _wait(self, seconds: float, message: str) -> None:
        if seconds:
            raise rate_limited(seconds, message)

    def _bound(self, count: int, bound: int, whose: str) -> None:
        if bound and count >= bound:
            raise ProtocolError(
                ErrorCode.TOO_MANY_CONNECTIONS,
                f"this {whose} is limited to {bound} connections",
                retry_after=1.0,
            )
