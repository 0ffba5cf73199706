"""What the broker counts since the start, for the metrics: plain integers, a few per batch."""

from __future__ import annotations

__all__ = ["Counts"]


class Counts:
    """One for a whole broker."""

    __slots__ = (
        "batched_events",
        "batches",
        "connects",
        "disconnects",
        "entries",
        "lost",
        "refused",
        "repairs",
        "resets",
        "round_trip_seconds",
        "round_trips",
    )

    def __init__(self) -> None:
        self.round_trips = 0
        self.round_trip_seconds = 0.0
        self.batches = 0
        self.batched_events = 0
        self.entries = 0
        self.repairs = 0
        self.lost = 0
        self.resets = 0
        self.connects = 0
        self.disconnects = 0
        self.refused = 0

    def measures(self) -> dict[str, tuple[str, float]]:
        """As :meth:`~gateway.broker.base.Broker.measures`."""
        return {
            "broker_round_trips_total": ("Commands and scripts answered by the broker", self.round_trips),
            "broker_round_trip_seconds_total": ("Their time, summed up", self.round_trip_seconds),
            "broker_batches_total": ("Batches of events written", self.batches),
            "broker_batched_events_total": ("Events in these batches", self.batched_events),
            "broker_entries_received_total": ("Entries of streams that came in", self.entries),
            "broker_repairs_total": (
                "Rooms of which the stream was read for what is missing",
                self.repairs,
            ),
            "broker_lost_events_total": ("Events that could not be read any more", self.lost),
            "broker_resets_total": ("Rooms that changed their epoch: the broker lost data", self.resets),
            "broker_connects_total": ("Connections made to the broker's servers", self.connects),
            "broker_disconnects_total": ("Connections lost", self.disconnects),
            "broker_refused_total": ("Publishes refused because the broker was away or slow", self.refused),
        }
