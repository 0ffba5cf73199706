"""The hub: who is here (``registry``), in which rooms (``rooms``), and who gets what (``delivery``)."""

from __future__ import annotations

import time
from collections.abc import Mapping

from gateway.broker.base import Broker
from gateway.hub.counters import Counters
from gateway.hub.delivery import Delivery, Sent
from gateway.hub.judging import Judging
from gateway.hub.lingering import Lingering
from gateway.hub.presence import Presence
from gateway.hub.registry import Registry
from gateway.hub.rooms import Rooms
from gateway.hub.statistics import Statistics
from gateway.hub.trace import Tracer
from gateway.wire.flusher import Flusher

__all__ = ["Hub", "Sent"]


class Hub:
    """The connections of this node, and what is said to them.

    Nothing is done here: the names below are those of the parts, where they are described.
    """

    def __init__(
        self,
        broker: Broker,
        flusher: Flusher,
        *,
        node: str,
        command_timeout: float = 10.0,
        message_bytes: int = 2**20,
        weights: Mapping[str, int] | None = None,
        presence: Presence | None = None,
        id: str | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """``command_timeout`` bounds every wait for the broker, in seconds; ``message_bytes`` every event.

        ``id`` begins the ids of connections; the node's name, where that is enough to tell them apart.
        """
        self.node = node
        self.id = id or node
        self.started_at = time.time()
        self.broker = broker
        self.flusher = flusher
        self.counters = Counters()
        self.presence = presence or Presence()
        self.lingering = Lingering(self.presence, flusher)
        self.tracer = tracer
        rooms = Rooms(broker, self.presence, timeout=command_timeout)
        registry = Registry(
            broker,
            flusher,
            rooms,
            self.presence,
            self.counters,
            node=node,
            id=self.id,
            weights=weights or {},
        )
        self.judging = Judging(self.counters, flusher)
        delivery = Delivery(
            broker,
            flusher,
            registry,
            rooms.channels,
            self.counters,
            tracer,
            self.judging,
            timeout=command_timeout,
            message_bytes=message_bytes,
        )
        self.statistics = Statistics(
            registry, self.counters, flusher.share, node=node, started_at=self.started_at
        )
        self.connections = registry.connections
        self.organisations = registry.organisations
        self.channels = rooms.channels
        self.listeners = delivery.listeners

        # Bound here, so that a call through the hub costs what a call of the part does.
        self.connect = registry.connect
        self.disconnected = registry.disconnected
        self.disconnect = registry.disconnect
        self.take_over = registry.take_over
        self.close_matching = registry.close_matching
        self.find = registry.find
        self.join = rooms.join
        self.join_own = rooms.join_own
        self.leave = rooms.leave
        self.set_filter = rooms.set_filter
        self.new_mid = delivery.new_mid
        self.check_size = delivery.check_size
        self.submit = delivery.submit
        self.publish = delivery.publish
        self.send_to_user = delivery.send_to_user
        self.send_to_users = delivery.send_to_users
        self.send_each = delivery.send_each
        self.wanting = delivery.wanting
        self.send_to_connection = delivery.send_to_connection
        self.announce = delivery.announce
        self.history = delivery.history
        self.history_of = delivery.history_of
        self.trace = delivery.trace
        self._registry = registry

    def census(self) -> dict[str, int]:
        """Count what is held now, by walking over all of it: for tests, not for the hot path.

        ``channels`` are rooms, users and organisations that somebody hears or is about to; ``memberships``
        are places in rooms; ``lags`` those that lag, ``backlog_bytes`` what these keep; ``taps`` joins that
        are under way; ``retired`` organisations without a connection that are remembered.
        """
        connections = self.connections.values()
        places = [place for connection in connections for place in connection.memberships.values()]
        lags = [place.lag for each in connections for place in each.places if place.lag is not None]
        return {
            "connections": len(self.connections),
            "organisations": len(self.organisations),
            "rooms": sum(len(organisation.rooms) for organisation in self.organisations.values()),
            "users": sum(len(organisation.users) for organisation in self.organisations.values()),
            "channels": len(self.channels),
            "memberships": len(places),
            "lags": len(lags),
            "backlog_bytes": sum(lag.bytes for lag in lags),
            "taps": sum(len(room.taps) for room in self.channels.values()),
            "retired": len(self._registry.retired),
            "traces": 0 if self.tracer is None else len(self.tracer),
            "trace_bytes": 0 if self.tracer is None else self.tracer.bytes,
        }
