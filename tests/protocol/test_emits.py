"""The helpers: one for each event of the catalogue, for synchronous and asynchronous publishers."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from protocol.emits import Emits
from protocol.events import CATALOGUE, MessageNew, TaskStatusChanged, TypedEvent
from tests.protocol.test_events import SMALLEST

Said = tuple[str | None, str, Any]


class Publisher(Emits):
    def publish(self, room: str | None, event: str, data: Any = None, *, mid: str = "") -> Said:
        return room, event, data


class AsyncPublisher(Emits):
    async def publish(self, room: str | None, event: str, data: Any = None) -> Said:
        return room, event, data


HELPERS = {name: helper for name, helper in vars(Emits).items() if name.startswith("emit_")}


def name_of(typed: type[TypedEvent]) -> str:
    for name, helper in HELPERS.items():
        if helper._kind is typed:
            return name
    raise AssertionError(f"{typed.event} has no helper")


@pytest.mark.parametrize("typed", CATALOGUE.values(), ids=CATALOGUE.keys())
async def test_every_event_has_a_helper(typed: type[TypedEvent]) -> None:
    name = name_of(typed)
    assert name in {f"emit_{typed.event.replace(':', '_')}", "emit_task_created_for_approval"}
    room = ("conversation:7",) if typed.needs_room else ()
    fields = {**SMALLEST[typed], "ts": 5, "source": "worker-3"}
    expected = ("conversation:7" if typed.needs_room else typed.room, typed.event, fields)
    assert getattr(Publisher(), name)(*room, **fields) == expected
    waiting = getattr(AsyncPublisher(), name)(*room, **fields)
    assert inspect.iscoroutine(waiting) and await waiting == expected
    assert typed.__name__ in HELPERS[name].__doc__


def test_there_are_no_others() -> None:
    assert len(HELPERS) == len(CATALOGUE)


async def test_emit_takes_any_of_them() -> None:
    changed = TaskStatusChanged(task_id="t", status="done", previous="running", ts=5)
    data = {"task_id": "t", "status": "done", "previous": "running", "ts": 5}
    assert Publisher().emit(changed) == ("tasks", "task_status_changed", data)
    assert await AsyncPublisher().emit(changed, room="r") == ("r", "task_status_changed", data)
    assert (
        Publisher().emit_task_status_changed(task_id="t", status="done", previous="running", ts=5)[2] == data
    )


def test_what_is_not_valid_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="needs a room"):
        Publisher().emit(MessageNew(text="hi"))
    with pytest.raises(ValueError, match="task_id"):
        Publisher().emit_task_started(task_id="")
    with pytest.raises(TypeError):
        Publisher().emit({"event": "x"})
    with pytest.raises(TypeError):
        Publisher().emit_task_started(task="t")  # type: ignore[call-arg]
