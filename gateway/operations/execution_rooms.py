"""The rooms in which executions are followed: ``executions``, and ``execution:ID`` for each. Pure."""

from __future__ import annotations

from typing import Final

__all__ = ["ALL", "UPDATED", "id_of", "room_of"]

ALL: Final = "executions"
UPDATED: Final = "execution:updated"
_ONE: Final = "execution:"


def room_of(id: str) -> str:
    """The room of one execution."""
    return _ONE + id


def id_of(room: str) -> str | None:
    """The execution that ``room`` is about; None for every other room."""
    return room[len(_ONE) :] if room.startswith(_ONE) else None
