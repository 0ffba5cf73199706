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
    *("task:created", "task:approved", "task:executed", "permission:pending", "permission:decided"),
]
FEED = [
    *("councilor_started", "councilor_completed", "councilor_error"),
    *("agent_execution_started", "agent_execution_completed", "agent_metrics_updated", "system_alert"),
]
CHAT = ["message:new", "message:status", "typing:start", "typing:stop"]
CORE = {
    "agents": "agent_created agent_updated agent_deleted agent_status_changed agent_action",
    "tasks": (
        "task_created task_assigned task_started task_completed task_failed task_cancelled"
        " task_status_changed"
    ),
    "coordination": "election_triggered leader_elected consensus_proposed consensus_decided",
    "system": "connected disconnected error health_changed metrics_updated alert_triggered",
}

SMALLEST: dict[type[TypedEvent], dict[str, Any]] = {
    events.AgentExecutionStart: {"execution_id": "x", "agent_id": "a"},
    events.AgentExecutionComplete: {"execution_id": "x", "agent_id": "a"},
    events.AgentExecutionError: {"execution_id": "x", "agent_id": "a", "error": "e"},
    events.TaskCreatedForApproval: {"task_id": "t"},
    events.TaskApproved: {"task_id": "t"},
    events.TaskExecuted: {"task_id": "t", "success": False},
    events.PermissionPending: {"id": "p", "title": "Delete it?"},
    events.PermissionDecided: {"id": "p"},
    events.NotificationNew: {"id": "n", "type": "info", "title": "t"},
    events.NotificationRead: {"unread": 0},
    events.NotificationDeleted: {"ids": ["n"], "unread": 0},
    events.ExecutionUpdated: {"id": "x", "agent": "a", "status": "running"},
    events.CouncilorStarted: {"councilor_id": "c"},
    events.CouncilorCompleted: {"councilor_id": "c"},
    events.CouncilorError: {"councilor_id": "c", "error": "e"},
    events.AgentExecutionStarted: {"execution_id": "x"},
    events.AgentExecutionCompleted: {"execution_id": "x"},
    events.AgentMetricsUpdated: {"agent_id": "a", "metrics": {"cpu": 0.5}},
    events.SystemAlert: {"severity": "warning", "message": "m"},
    events.MessageNew: {"text": "hi"},
    events.MessageStatus: {"message_id": "m", "status": "read"},
    events.TypingStart: {},
    events.TypingStop: {},
    events.AgentCreated: {"agent_id": "a"},
    events.AgentUpdated: {"agent_id": "a", "changes": {"name": "b"}},
    events.AgentDeleted: {"agent_id": "a"},
    events.AgentStatusChanged: {"agent_id": "a", "status": "idle"},
    events.AgentAction: {"agent_id": "a", "action": "plan"},
    events.TaskCreated: {"task_id": "t"},
    events.TaskAssigned: {"task_id": "t", "agent_id": "a"},
    events.TaskStarted: {"task_id": "t"},
    events.TaskStatusChanged: {"task_id": "t", "status": "blocked"},
    events.TaskCompleted: {"task_id": "t"},
    events.TaskFailed: {"task_id": "t", "error": "e"},
    events.TaskCancelled: {"task_id": "t"},
    events.ElectionTriggered: {},
    events.LeaderElected: {"leader_id": "l"},
    events.ConsensusProposed: {"proposal_id": "p"},
    events.ConsensusDecided: {"proposal_id": "p", "accepted": True},
    events.Connected: {"connection_id": "c"},
    events.Disconnected: {"connection_id": "c"},
    events.ErrorRaised: {"message": "m"},
    events.HealthChanged: {"component": "c", "status": "degraded"},
    events.MetricsUpdated: {"metrics": {"queued": 3}},
    events.AlertTriggered: {"severity": "critical", "message": "m"},
}
every_event = pytest.mark.parametrize("typed", CATALOGUE.values(), ids=CATALOGUE.keys())


def test_the_catalogue_holds_every_event_of_the_five_systems() -> None:
    agent_core = [name for row in CORE.values() for name in row.split()]
    assert len(agent_core) == 21 + 1, "task_status_changed is beside the 21"
    platform = ["notification:new", "notification:read", "notification:deleted", "execution:updated"]
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
        for data, code in (
            (rest, ErrorCode.MISSING_FIELD),
            (rest | {field: None}, ErrorCode.BAD_FIELD),
            (rest | {field: [[]]}, ErrorCode.BAD_FIELD),
        ):
            with pytest.raises(ProtocolError, match=rf"data\.{field}") as caught:
                from_data(typed.event, data)
            assert caught.value.code is code
            assert caught.value.fatal is None


@every_event
def test_every_one_may_name_its_source(typed: type[TypedEvent]) -> None:
    data = typed(**SMALLEST[typed], source="worker-3").to_data()
    assert data["source"] == "worker-3"
    assert from_data(typed.event, data).source == "worker-3"  # type: ignore[union-attr]


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
        ("agent:execution:complete", {"execution_id": "x", "agent_id": "a", "duration_ms": -1}),
        ("agent:execution:complete", {"execution_id": "x", "agent_id": "a", "tools": "hammer"}),
        ("execution:updated", {"id": "x", "agent": "a", "status": "running", "progress": 100.1}),
        ("execution:updated", {"id": "x", "agent": "a", "status": "paused"}),
        ("message:status", {"message_id": "m", "status": "q" * 10_000}),
        ("metrics_updated", {"metrics": {"cpu": "high"}}),
        ("health_changed", {"component": "c", "status": "fine"}),
        ("task_created", {"task_id": ""}),
        ("task_created", {"task_id": "t" * 201}),
        ("task_created", []),
        ("councilor_started", {"councilor_id": "c", "severity": "fine"}),
    ],
)
def test_values_are_checked(event: str, data: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        from_data(event, data)
    assert caught.value.code is ErrorCode.BAD_FIELD
    assert len(caught.value.message) < 200


def test_payloads_of_the_activity_feed_are_valid_as_they_are() -> None:
    said = {
        "councilor_id": "cicero",
        "display_name": "Marcus Tullius Cicero",
        "task_name": "Review the budget",
        "execution_id": "e7",
        "severity": "success",
        "duration_ms": 1250,
    }
    completed = from_data("councilor_completed", said)
    assert isinstance(completed, events.CouncilorCompleted)
    assert {name: getattr(completed, name) for name in said} == said


def test_data_are_of_the_value_model_to_its_whole_depth() -> None:
    deep = wrap(1, [True, False] * 7)  # below the envelope and its data
    assert from_data(
        "task_completed", {"task_id": "t", "ts": 5, "result": deep, "details": {"k": wrap(1, [True] * 13)}}
    )
    assert events.TaskCompleted(task_id="t", result=deep).to_data()["result"] == deep
    for wrong in ([deep], "\ud800", {1: 2}, 2**63):
        with pytest.raises(ProtocolError) as caught:
            from_data("task_completed", {"task_id": "t", "result": wrong})
        assert caught.value.code is ErrorCode.BAD_FIELD
        with pytest.raises(ProtocolError):
            events.TaskCompleted(task_id="t", result=wrong).to_data()


def test_unknown_fields_are_ignored() -> None:
    assert from_data("task_created", {"task_id": "t", "ts": 5, "later": 1}) == events.TaskCreated(
        task_id="t", ts=5
    )


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
