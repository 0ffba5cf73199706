"""Rates of one connection's commands: its own, its user's, its organisation's and its address's."""

from __future__ import annotations

import math

from gateway.auth.identity import Identity
from gateway.config.settings import RateSettings
from gateway.limits.buckets import Bucket, BucketTable
from gateway.networks import network_of
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["Limiter", "Limiters", "rate_limited"]


def rate_limited(wait: float, message: str) -> ProtocolError:
    """The refusal that says to come again in ``wait`` seconds, in whole milliseconds and not too early."""
    return ProtocolError(
        ErrorCode.RATE_LIMITED, message, retry_after=max(1, math.ceil(wait * 1000 - 1e-3)) / 1000
    )


class Limiter:
    """The buckets that one connection draws from."""

    __slots__ = ("_abuse_after", "_bytes", "_commands", "_joins", "_refusals", "_refused_at", "_wait_until")

    def __init__(
        self, commands: list[Bucket], bytes_: list[Bucket], joins: list[Bucket], abuse_after: int
    ) -> None:
        self._commands = commands
        self._bytes = bytes_
        self._joins = joins
        self._abuse_after = abuse_after
        self._refusals = 0
        self._refused_at = 0.0
        self._wait_until = 0.0

    def admit(self, kind: str, size: int, now: float) -> float:
        """Draw for one command of ``size`` bytes; returns 0.0, or the seconds to wait and draws nothing."""
        joins = self._joins if kind == "join" else ()
        wait = 0.0
        for bucket in self._commands:
            wait = max(wait, bucket.wait(1, now))
        for bucket in self._bytes:
            wait = max(wait, bucket.wait(size, now))
        for bucket in joins:
            wait = max(wait, bucket.wait(1, now))
        if wait:
            if now - self._refused_at >= 1.0:
                self._refusals = 0
            elif now < self._wait_until:
                self._refusals += 1
            elif self._refusals:  # it did wait, and has used up what was there again
                self._refusals -= 1
            self._refused_at = now
            self._wait_until = now + wait
            return wait
        for bucket in self._commands:
            bucket.take(1, now)
        for bucket in self._bytes:
            bucket.take(size, now)
        for bucket in joins:
            bucket.take(1, now)
        return 0.0

    def joined(self, number: int, now: float) -> None:
        """Draw for rooms that one command enters beside its first, also more than there are: what follows
        waits."""
        for bucket in self._joins:
            bucket.take(number, now)

    def reached(self, number: int, now: float) -> None:
        """Draw for users that one command is for beside its first, also more than there are: what follows
        waits."""
        for bucket in self._commands:
            bucket.take(number, now)

    @property
    def abusive(self) -> bool:
        """So many commands came although the client was told to wait that it does not listen."""
        return self._refusals >= self._abuse_after


class Limiters:
    """Makes the limiter of each connection, and decides on new connections."""

    def __init__(self, rates: RateSettings) -> None:
        burst = rates.burst
        self._rates = rates
        self._tables = {
            what: {
                whose: BucketTable(getattr(rates, f"{what}_per_{whose}"), burst)
                for whose in ("user", "organisation", "ip")
            }
            for what in ("commands", "bytes", "joins", "connections")
        }
        self._unlimited = not any(
            getattr(rates, f"{what}_per_{whose}")
            for what in ("commands", "bytes", "joins")
            for whose in ("connection", "user", "organisation", "ip")
        )

    def limiter(self, identity: Identity, ip: str, *, of_connection: bool = True) -> Limiter | None:
        """The limiter of a new connection, or of a request without one; None when nothing limits it."""
        if self._unlimited:
            return None
        commands, bytes_, joins = (
            self._buckets(what, identity, ip, of_connection) for what in ("commands", "bytes", "joins")
        )
        if not (commands or bytes_ or joins):
            return None
        return Limiter(commands, bytes_, joins, self._rates.abuse_after)

    def connecting(self, ip: str, identity: Identity | None, now: float) -> float:
        """Draw for one new connection; returns 0.0, or the seconds to wait.

        Called before anything is known of the peer (``identity`` None: its address counts), and
        again when it has said who it is (its user and organisation count).
        """
        tables = self._tables["connections"]
        if identity is None:
            buckets = [tables["ip"].get(network_of(ip))]
        else:
            user = None if identity.user is None else tables["user"].get((identity.org, identity.user))
            buckets = [user, tables["organisation"].get(identity.org)]
        drawn = [bucket for bucket in buckets if bucket is not None]
        wait = max((bucket.wait(1, now) for bucket in drawn), default=0.0)
        if not wait:
            for bucket in drawn:
                bucket.take(1, now)
        return wait

    def _buckets(self, what: str, identity: Identity, ip: str, of_connection: bool) -> list[Bucket]:
        tables = self._tables[what]
        rate = getattr(self._rates, f"{what}_per_connection") if of_connection else 0.0
        buckets = [
            Bucket(rate, self._rates.burst) if rate else None,
            tables["organisation"].get(identity.org),
            tables["ip"].get(network_of(ip)),
        ]
        if identity.user is not None:
            buckets.append(tables["user"].get((identity.org, identity.user)))
        return [bucket for bucket in buckets if bucket is not None]
