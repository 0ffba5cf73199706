"""Addresses that behave suspiciously: counted, logged once per window, and banned if so configured."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Literal

import structlog

from gateway.config.settings import SuspicionSettings
from gateway.limits.buckets import BucketTable
from gateway.networks import network_of

__all__ = ["Suspicion"]

log = structlog.get_logger(__name__)

Pattern = Literal["failed_logins", "connections", "refused_joins"]
_MAX_ADDRESSES: Final = 10_000


class _Record:
    """What one address did in the present window."""

    __slots__ = ("counts", "reported", "started")

    def __init__(self, now: float) -> None:
        self.started = now
        self.counts: dict[Pattern, int] = {}
        self.reported: set[Pattern] = set()


class Suspicion:
    """Failed logins, connect churn and refused joins, by address; bounded in addresses."""

    def __init__(self, settings: SuspicionSettings, *, failed_logins_per_ip: float, burst: float) -> None:
        self._settings = settings
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self._banned: OrderedDict[str, float] = OrderedDict()
        """Until when; apart from the records, which a flood of other addresses drives out."""
        self._logins = BucketTable(failed_logins_per_ip, burst)
        self.reports = 0
        """Patterns reported since the start."""
        self.bans = 0

    def __len__(self) -> int:
        return len(self._records)

    def blocked(self, ip: str, now: float) -> float:
        """Seconds for which ``ip`` is refused: it is banned, or failed to log in too often; else 0.0."""
        ip = network_of(ip)
        banned = max(0.0, self._banned.get(ip, 0.0) - now)
        logins = self._logins.get(ip)
        return max(banned, 0.0 if logins is None else logins.wait(1, now))

    def note(self, pattern: Pattern, ip: str, now: float) -> None:
        """``ip`` did something that is normal once and suspicious in numbers."""
        ip = network_of(ip)
        if pattern == "failed_logins":
            logins = self._logins.get(ip)
            if logins is not None:
                logins.take(1, now)
        bound: int = getattr(self._settings, pattern)
        if not bound:
            return
        record = self._record(ip, now)
        count = record.counts[pattern] = record.counts.get(pattern, 0) + 1
        if count >= bound and pattern not in record.reported:
            record.reported.add(pattern)
            self.reports += 1
            if self._settings.ban:
                self._ban(ip, now + self._settings.ban)
            log.warning(
                "suspicious address",
                ip=ip,
                pattern=pattern,
                count=count,
                window=self._settings.window,
                banned_for=self._settings.ban,
            )

    def _ban(self, ip: str, until: float) -> None:
        self.bans += 1
        self._banned[ip] = until
        self._banned.move_to_end(ip)
        if len(self._banned) > _MAX_ADDRESSES:
            self._banned.popitem(last=False)

    def _record(self, ip: str, now: float) -> _Record:
        record = self._records.get(ip)
        if record is None or now - record.started > self._settings.window:
            record = self._records[ip] = _Record(now)
            if len(self._records) > _MAX_ADDRESSES:
                self._records.popitem(last=False)
        self._records.move_to_end(ip)
        return record
