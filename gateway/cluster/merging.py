"""Many nodes' answers made into one. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import merge
from itertools import islice
from typing import Any, Final

__all__ = ["merge_connections", "merge_rooms", "merge_traces", "whole_of"]

_OWN: Final = frozenset({"node", "uptime", "org"})
"""What a node says of itself alone."""


def whole_of(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Statistics of nodes, added up: numbers as such, maps key by key."""
    whole: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            if name in _OWN:
                continue
            if isinstance(value, dict):
                sums = Counter(whole.get(name, {}))
                sums.update(value)
                whole[name] = dict(sorted(sums.items()))
            else:
                whole[name] = whole.get(name, 0) + value
    return whole


def merge_connections(parts: Iterable[list[dict[str, Any]]], limit: int) -> list[dict[str, Any]]:
    """The first ``limit`` of what nodes list in the same order."""
    ordered = merge(*parts, key=lambda each: (each["connected_at"], each["connection"]))
    return list(islice(ordered, limit))


def merge_rooms(
    parts: Iterable[list[dict[str, Any]]], limit: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The first ``limit`` rooms, and of these those on several nodes, whose ``users`` counts some twice.

    Each part must hold the first ``limit`` of its node.
    """
    rooms: dict[str, dict[str, Any]] = {}
    several: dict[str, dict[str, Any]] = {}
    for room in merge(*parts, key=lambda each: each["room"]):
        name = room["room"]
        known = rooms.get(name)
        if known is None:
            if len(rooms) == limit:
                break
            rooms[name] = dict(room)
            continue
        several[name] = known
        for count in ("members", "users"):
            known[count] += room[count]
        if room["seq"] > known["seq"]:  # one node may have heard of more than the other
            known["seq"], known["epoch"] = room["seq"], room["epoch"]
    return list(rooms.values()), list(several.values())


def merge_traces(traces: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """One trace with everybody's recipients; None when there is none."""
    whole: dict[str, Any] | None = None
    for trace in traces:
        if whole is None:
            whole = {**trace, "recipients": list(trace["recipients"])}
        else:
            whole["recipients"] += trace["recipients"]
            whole["complete"] = whole["complete"] and trace["complete"]
    if whole is not None:
        # That the user has no connection is the answer of each node that he is not connected to.
        found = [each for each in whole["recipients"] if "connection" in each]
        whole["recipients"] = found or whole["recipients"][:1]
    return whole
