"""The catalogue: complete, typed, validated, and in UTC."""

from __future__ import annotations

import time
from typing import Any

import pytest

from protocol import events
from protocol.cbor import CBOR
from protocol.envelope import Envelope
from protocol.errors import ErrorCode, ProtocolError
from protocol.events import CATALOGUE, Custom, TypedEvent, from_data
from protocol.json import JSON
from protocol.names import check_event, check_room
from tests.protocol.strategies import wrap

ORGANISATIONS = [
    *("agent:execution:start", "agent:execution:complete", "agent:execution:error"),
    *("task:created", "task:approved", "task:executed", "permission:pending", "connected", "disconnected"),
]
FEED = [
    *("councilor_started", "councilor_completed", "councilor_error"),
    *("agent_execution_started", "agent_execution_completed", "agent_metrics_updated", "system_alert"),
]
CHAT = ["message:new", "message:status", "typing:start", "typing:stop"]
CORE = {
    "agents": "agent_created agent_updated agent_deleted agent_status_changed agent_action",
    "tasks": "task_created task_assigned task_started task_completed task_failed task_cancelled",
    "coordination": "election_triggered leader_elected consensus_proposed consensus_decided",
    "system": "connected disconnected error health_changed metrics_updated alert_triggered",
}

SMALLEST: dict[type[TypedEvent], dict[str, Any]] = {
    events.Connected: {"connection": "c"},
    events.Disconnected: {"connection": "c"},
    events.ErrorRaised: {"message": "m"},
    events.AgentExecutionStart: {"execution": "x", "agent": "a"},
    events.AgentExecutionComplete: {"execution": "x", "agent": "a"},
    events.AgentExecutionError: {"execution": "x", "agent": "a", "error": "e"},
    events.TaskCreatedForApproval: {"task": "t"},
    events.TaskApproved: {"task": "t"},
    events.TaskExecuted: {"task": "t", "success": False},
    events.PermissionPending: {"permission": "p", "action": "delete"},
    events.NotificationNew: {"notification": "n", "type": "info", "title": "t"},
    events.ExecutionUpdated: {"execution": "x", "status": "running"},
    events.CouncilorStarted: {"councilor": "c"},
    events.CouncilorCompleted: {"councilor": "c"},
    events.CouncilorError: {"councilor": "c", "error": "e"},
    events.AgentExecutionStarted: {"execution": "x", "agent": "a"},
    events.AgentExecutionCompleted: {"execution": "x", "agent": "a", "success": True},
    events.AgentMetricsUpdated: {"agent": "a", "metrics": {"cpu": 0.5}},
    events.SystemAlert: {"severity": "warning", "message": "m"},
    events.MessageNew: {"text": "hi"},
    events.MessageStatus: {"message": "m", "status": "read"},
    events.TypingStart: {"user": "u"},
    events.TypingStop: {"user": "u"},
    events.AgentCreated: {"agent": "a"},
    events.AgentUpdated: {"agent": "a", "changes": {"name": "b"}},
    events.AgentDeleted: {"agent": "a"},
    events.AgentStatusChanged: {"agent": "a", "status": "idle"},
    events.AgentAction: {"agent": "a", "action": "plan"},
    events.TaskCreated: {"task": "t"},
    events.TaskAssigned: {"task": "t", "agent": "a"},
    events.TaskStarted: {"task": "t"},
    events.TaskCompleted: {"task": "t"},
    events.TaskFailed: {"task": "t", "error": "e"},
    events.TaskCancelled: {"task": "t"},
    events.ElectionTriggered: {},
    events.LeaderElected: {"leader": "l"},
    events.ConsensusProposed: {"proposal": "p"},
    events.ConsensusDecided: {"proposal": "p", "accepted": True},
    events.HealthChanged: {"component": "c", "status": "degraded"},
    events.MetricsUpdated: {"metrics": {"queued": 3}},
    events.AlertTriggered: {"severity": "critical", "message": "m"},
}
every_event = pytest.mark.parametrize("typed", CATALOGUE.values(), ids=CATALOGUE.keys())


def test_the_catalogue_holds_every_event_of_the_five_systems() -> None:
    agent_core = [name for row in CORE.values() for name in row.split()]
    assert len(agent_core) == 21
    platform = ["notification:new", "execution:updated"]
    assert set(CATALOGUE) == {*ORGANISATIONS, *platform, *FEED, *CHAT, *agent_core}


@pytest.mark.parametrize("room", CORE)
def test_agent_core_events_have_their_rooms(room: str) -> None:
    assert {CATALOGUE[name].room for name in CORE[room].split()} == {room}


def test_chat_is_only_for_a_room() -> None:
    assert {name for name, typed in CATALOGUE.items() if typed.needs_room} == set(CHAT)


@every_event
def test_names_are_good_and_exported(typed: type[TypedEvent]) -> None:
    assert CATALOGUE[check_event(typed.event)] is typed
    assert typed.room is None or check_room(typed.room)
    assert typed.__name__ in events.__all__


@every_event
def test_the_smallest_one_survives_a_round_trip(typed: type[TypedEvent]) -> None:
    before = time.time_ns() // 1_000_000
    event = typed(**SMALLEST[typed])
    assert before <= event.ts <= time.time_ns() // 1_000_000
    data = event.to_data()
    assert data == SMALLEST[typed] | {"ts": event.ts}
    for codec in (JSON, CBOR):
        envelope = codec.decode(codec.encode(Envelope(t="publish", event=typed.event, data=data)))
        assert from_data(typed.event, envelope.data) == event


@every_event
def test_no_field_of_the_smallest_one_may_be_missing_or_of_another_type(typed: type[TypedEvent]) -> None:
    for field in SMALLEST[typed]:
        rest = {name: value for name, value in SMALLEST[typed].items() if name != field}
        for data in (rest, rest | {field: None}, rest | {field: [[]]}):
            with pytest.raises(ProtocolError, match=rf"{typed.event}: .*{field}") as caught:
                from_data(typed.event, data)
            assert caught.value.code is ErrorCode.BAD_FIELD
            assert caught.value.fatal is None


@every_event
def test_to_data_validates(typed: type[TypedEvent]) -> None:
    for wrong in ({"ts": -1}, {"details": {"raw": b"x"}}, {"details": {"nan": float("nan")}}):
        with pytest.raises(ProtocolError) as caught:
            typed(**SMALLEST[typed] | wrong).to_data()
        assert caught.value.code is ErrorCode.BAD_FIELD


@every_event
def test_events_do_not_change(typed: type[TypedEvent]) -> None:
    with pytest.raises(AttributeError):
        typed(**SMALLEST[typed]).ts = 0  # type: ignore[misc]


@pytest.mark.parametrize(
    "event, data",
    [
        ("agent:execution:complete", {"execution": "x", "agent": "a", "duration": -1}),
        ("agent:execution:complete", {"execution": "x", "agent": "a", "tools": [""]}),
        ("execution:updated", {"execution": "x", "status": "running", "progress": 1.1}),
        ("execution:updated", {"execution": "x", "status": "paused"}),
        ("message:status", {"message": "m", "status": "q" * 10_000}),
        ("metrics_updated", {"metrics": {"cpu": "high"}}),
        ("health_changed", {"component": "c", "status": "fine"}),
        ("task_created", {"task": ""}),
        ("task_created", {"task": "t" * 201}),
        ("task_created", []),
        ("task_created", None),
    ],
)
def test_values_are_checked(event: str, data: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        from_data(event, data)
    assert caught.value.code is ErrorCode.BAD_FIELD
    assert len(caught.value.message) < 200


def test_data_are_of_the_value_model_to_its_whole_depth() -> None:
    deep = wrap(1, [True, False] * 7)  # below the envelope and its data
    assert from_data(
        "task_completed", {"task": "t", "ts": 5, "result": deep, "details": {"k": wrap(1, [True] * 13)}}
    )
    assert events.TaskCompleted(task="t", result=deep).to_data()["result"] == deep
    for wrong in ([deep], "\ud800", {1: 2}, 2**63):
        with pytest.raises(ProtocolError) as caught:
            from_data("task_completed", {"task": "t", "result": wrong})
        assert caught.value.code is ErrorCode.BAD_FIELD
        with pytest.raises(ProtocolError):
            events.TaskCompleted(task="t", result=wrong).to_data()


def test_unknown_fields_are_ignored() -> None:
    assert from_data("task_created", {"task": "t", "ts": 5, "later": 1}) == events.TaskCreated(task="t", ts=5)


def test_custom_events() -> None:
    event = from_data("invoice:paid", {"amount": 12})
    assert event == Custom("invoice:paid", {"amount": 12})
    assert event.to_data() == {"amount": 12}
    assert Custom("invoice:paid").to_data() is None
    for bad, code in (
        (Custom("a*", 1), ErrorCode.BAD_EVENT),
        (Custom("a", {"x": b""}), ErrorCode.BAD_FIELD),
    ):
        with pytest.raises(ProtocolError) as caught:
            bad.to_data()
        assert caught.value.code is code
    for name, data, code in (("", 1, ErrorCode.BAD_EVENT), ("a", float("nan"), ErrorCode.BAD_FIELD)):
        with pytest.raises(ProtocolError) as caught:
            from_data(name, data)
        assert caught.value.code is code
