"""Prometheus metrics, read from plain integers when somebody asks.

Nothing on the way of a message calls in here: the hub and the outboxes count with plain
integers, and :class:`Metrics` reads them at scrape time through a custom collector.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import trio
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gateway.calls.breaker import State
from gateway.version import VERSION
from protocol.errors import CloseCode

if TYPE_CHECKING:
    from gateway.calls.registry import Calls
    from gateway.cluster.base import Cluster
    from gateway.hub.hub import Hub
    from gateway.limits.guard import Guard

__all__ = ["CONTENT_TYPE", "HttpCounters", "LoopLag", "Metrics"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_LAG_INTERVAL: Final = 0.5
_LAG_WINDOW: Final = 120
_SPOKEN: Final = ("trireme.v1.cbor", "trireme.v1.json", "sse", "poll")
_CLOSES: Final = frozenset(range(1000, 1016)) | frozenset(int(code) for code in CloseCode)


class HttpCounters:
    """What the HTTP side counts since the start."""

    __slots__ = ("errors", "requests")

    def __init__(self) -> None:
        self.requests: Counter[int] = Counter()
        """By status."""
        self.errors: Counter[int] = Counter()
        """By error code; 200 to 204 are refused tokens and organisations."""


class LoopLag:
    """How late the event loop comes to a task that is due: what every client feels as latency."""

    def __init__(self) -> None:
        self.latest = 0.0
        """Seconds, at the last sample."""
        self._recent: list[float] = []

    @property
    def worst(self) -> float:
        """The largest of the last minute, in seconds."""
        return max(self._recent, default=0.0)

    async def run(self) -> None:
        """Sample twice a second until cancelled."""
        while True:
            due = trio.current_time() + _LAG_INTERVAL
            await trio.sleep_until(due)
            self.latest = trio.current_time() - due
            self._recent.append(self.latest)
            del self._recent[:-_LAG_WINDOW]


class Metrics(Collector):
    """Everything that ``/metrics`` shows. One registry per gateway, none global."""

    def __init__(
        self,
        hub: Hub,
        cluster: Cluster,
        guard: Guard,
        calls: Calls,
        *,
        started_at: float,
        is_draining: Callable[[], bool],
        measures: Callable[[], Mapping[str, tuple[str, float]]] = dict,
    ) -> None:
        """``started_at`` is in seconds since 1970 UTC."""
        self._hub = hub
        self._cluster = cluster
        self._guard = guard
        self._calls = calls
        self._is_draining = is_draining
        self._measures = measures
        self._started_at = started_at
        self.http = HttpCounters()
        self.lag = LoopLag()
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def render(self) -> bytes:
        """Return the text of all metrics (``CONTENT_TYPE``).

        Not as OpenMetrics: there a gauge ``trireme_connections`` and a counter
        ``trireme_connections_total`` would be two families of one name.
        """
        return generate_latest(self.registry)

    def describe(self) -> Iterator[Metric]:
        """Nothing: the registry must not collect to learn the names."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Read every counter, now."""
        hub, counters = self._hub, self._hub.counters
        yield _gauge("connections", "Open connections, of all transports", len(hub.connections))
        open_now = Counter(each.transport for each in hub.connections.values())
        yield _by("transport_connections", "Open connections by transport", "transport", open_now, gauge=True)
        yield _by(
            "transport_connections",
            "Connections and polls since the start by transport",
            "transport",
            counters.transports,
        )
        yield _gauge("lingering", "Users in rooms between two polls", len(hub.lingering))
        yield _gauge("organisations", "Organisations with an open connection", len(hub.organisations))
        rooms = sum(len(organisation.rooms) for organisation in hub.organisations.values())
        yield _gauge("rooms", "Rooms with a member", rooms)
        yield _counter("connections", "Connections since the start, of all transports", counters.connects)
        yield _by("disconnections", "Ended connections by close code", "reason", _known(counters.closes))
        traffic = hub.statistics.totals()
        yield _counter("messages_received", "Messages from clients", traffic["messages_in"])
        yield _counter("messages_sent", "Messages to clients", traffic["messages_out"])
        yield _counter("bytes_received", "Bytes of frames from clients", traffic["bytes_in"])
        yield _counter("bytes_sent", "Bytes of frames to clients", traffic["bytes_out"])
        yield _counter("publishes", "Events published on this node", counters.publishes)
        yield _counter("deliveries", "Events queued for a connection", counters.deliveries)
        yield _by("errors", "Error messages to clients by error code", "code", dict(counters.errors))
        yield _counter(
            "slow_consumers", "Connections closed because their queue was full", counters.slow_closed
        )
        yield _by("dropped", "Events given up by an overflow policy", "policy", dict(counters.dropped))
        yield _gauge("draining", "1 while the node is stopping and its clients leave", self._is_draining())
        yield _counter("drained_connections", "Connections asked to leave by the drain", counters.drained)
        for name, (text, value) in (
            *hub.broker.measures().items(),
            *self._cluster.measures().items(),
            *self._measures().items(),
        ):
            if name.endswith("_total"):
                yield _counter(name.removesuffix("_total"), text, value)
            else:
                yield _gauge(name, text, value)
        overload, suspicion = self._guard.overload, self._guard.suspicion
        yield _gauge("overloaded", "1 while load is shed", overload.reason is not None)
        yield _counter(
            "overload_refusals", "Connections and publishes refused to shed load", overload.refused
        )
        yield _counter("suspicions", "Suspicious patterns of addresses reported", suspicion.reports)
        yield _counter("bans", "Addresses refused for a time because of them", suspicion.bans)
        yield _gauge("suspects", "Addresses whose behaviour is being counted", len(suspicion))
        if hub.tracer is not None:
            yield _gauge("traced_messages", "Messages remembered for traces", len(hub.tracer))
            yield _gauge("trace_records", "Connections recorded in traces", hub.tracer.records)
        yield from self._queues()
        yield from self._answering()
        yield from self._http()
        yield _gauge("loop_lag_seconds", "How late the event loop was at the last sample", self.lag.latest)
        yield _gauge("loop_lag_max_seconds", "The largest lag of the last minute", self.lag.worst)
        yield _gauge("start_time_seconds", "When the gateway started, since 1970 UTC", self._started_at)
        yield InfoMetricFamily(
            "trireme_build",
            "What is running",
            {"version": VERSION, "python": platform.python_version()},
        )

    def _queues(self) -> Iterator[Metric]:
        messages = size = longest = 0
        spoken = Counter(dict.fromkeys(_SPOKEN, 0))
        for connection in self._hub.connections.values():
            spoken[connection.encoding.subprotocol] += 1
            waiting = connection.outbox.waiting
            if waiting:
                messages += waiting
                size += connection.outbox.size
                longest = max(longest, waiting)
        family = GaugeMetricFamily(
            "trireme_connections_by_encoding", "Open connections by what they speak", labels=["encoding"]
        )
        for name, number in spoken.items():
            family.add_metric([name], number)
        yield family
        yield _gauge("queue_messages", "Messages waiting for slow connections", messages)
        yield _gauge("queue_bytes", "Bytes waiting for slow connections", size)
        yield _gauge("queue_longest", "Messages waiting for the slowest connection", longest)

    def _answering(self) -> Iterator[Metric]:
        calls = self._calls
        yield _gauge("calls_pending", "Calls under way", calls.active)
        yield _gauge("calls_pending_bytes", "Bytes of calls under way", calls.held)
        if not calls.backends:
            return
        total = CounterMetricFamily(
            "trireme_backend_calls", "Calls forwarded to backends by outcome", labels=["calls", "outcome"]
        )
        active = GaugeMetricFamily(
            "trireme_backend_calls_pending", "Calls that wait for a backend", labels=["calls"]
        )
        breaker = GaugeMetricFamily(
            "trireme_backend_breaker", "1 for the breaker's state", labels=["calls", "state"]
        )
        for backend in calls.backends:
            for outcome, number in sorted(backend.answered.items()):
                total.add_metric([backend.pattern, outcome], number)
            active.add_metric([backend.pattern], backend.active)
            for state in State:
                breaker.add_metric([backend.pattern, state.value], backend.state is state)
        yield from (total, active, breaker)

    def _http(self) -> Iterator[Metric]:
        yield _by("http_requests", "HTTP requests by status", "status", dict(self.http.requests))
        yield _by("http_errors", "Problem documents by error code", "code", dict(self.http.errors))


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"trireme_{name}", text, value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"trireme_{name}", text, value)


def _by(name: str, text: str, label: str, values: Mapping[Any, int], *, gauge: bool = False) -> Metric:
    kind = GaugeMetricFamily if gauge else CounterMetricFamily
    family = kind(f"trireme_{name}", text, labels=[label])
    for key in sorted(values, key=str):
        family.add_metric([str(key)], values[key])
    return family


def _known(closes: Mapping[int, int]) -> dict[int | str, int]:
    """By close code; those that only clients send are one, since a client may choose any of thousands."""
    counts: Counter[int | str] = Counter()
    for code, count in closes.items():
        counts[code if code in _CLOSES else "other"] += count
    return counts
