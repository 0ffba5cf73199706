"""Positions, duplicates and losses, without any connection."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.client import Event, Joined, Lost, Position, PresenceChange
from gateway.client.rooms import JoinOptions, Rooms
from protocol.envelope import Envelope

ALL = JoinOptions()


def event(
    seq: int | None = None, room: str | None = "r", epoch: str = "e", mid: str | None = None
) -> Envelope:
    epoch_or_none = None if seq is None else epoch
    return Envelope("event", room=room, event="x", seq=seq, epoch=epoch_or_none, mid=mid)


def critical(seq: int) -> Envelope:
    return Envelope("event", room="r", event="x", seq=seq, epoch="e", mid=f"critical {seq}", critical=True)


def receive(rooms: Rooms, envelope: Envelope) -> list[Event]:
    items = rooms.check(envelope)
    rooms.seen(envelope)
    return items


def numbers(rooms: Rooms, *envelopes: Envelope) -> list[int | None]:
    return [item.seq for envelope in envelopes for item in receive(rooms, envelope)]


def joined(seq: int, epoch: str = "e", **more: Any) -> Joined:
    return Joined(room="r", epoch=epoch, seq=seq, **more)


def rooms_at(seq: int, window: int = 10) -> Rooms:
    rooms = Rooms(window=window)
    assert rooms.join(joined(seq), ALL, None) == []
    return rooms


def position(rooms: Rooms) -> Position:
    return rooms.joined["r"].position


def test_the_position_follows_what_was_handed_on() -> None:
    rooms = rooms_at(3)
    assert position(rooms) == ("e", 3)
    assert rooms.check(event(4))
    assert position(rooms) == ("e", 3), "only looked at"
    rooms.seen(event(4))
    assert position(rooms) == ("e", 4)


def test_a_number_that_was_seen_is_a_duplicate() -> None:
    rooms = rooms_at(3)
    assert numbers(rooms, event(3), event(4), event(4), event(2), event(6), event(5)) == [4, 6]


def test_the_same_number_in_a_new_epoch_is_no_duplicate() -> None:
    rooms = rooms_at(3)
    assert numbers(rooms, event(1, epoch="new"), event(1, epoch="new")) == [1]
    assert position(rooms) == ("new", 1)


def test_a_message_id_that_was_seen_is_a_duplicate_and_moves_the_position() -> None:
    rooms = rooms_at(3)
    assert numbers(rooms, event(4, mid="a"), event(5, mid="a"), event(6, mid="b")) == [4, 6]
    assert numbers(rooms, event(7, mid="b")) == []
    assert position(rooms) == ("e", 7)
    assert receive(rooms, event(room="other", mid="a")), "the same id in another room"


def test_events_without_number_are_known_by_message_id() -> None:
    rooms = rooms_at(3)
    assert len(receive(rooms, event(mid="a"))) == 1
    assert receive(rooms, event(mid="a")) == []
    assert len(receive(rooms, event())) == len(receive(rooms, event())) == 1, "nothing to know them by"


def test_the_window_forgets_the_oldest() -> None:
    rooms = rooms_at(0, window=2)
    for mid in "abc":
        receive(rooms, event(mid=mid))
    assert receive(rooms, event(mid="c")) == []
    assert len(receive(rooms, event(mid="a"))) == 1


def test_without_a_window_nothing_is_remembered() -> None:
    rooms = rooms_at(0, window=0)
    assert receive(rooms, event(mid="a"))
    assert receive(rooms, event(mid="a"))


@given(st.lists(st.tuples(st.integers(1, 20), st.sampled_from("ab"), st.integers(0, 9))))
def test_nothing_is_handed_on_twice_within_the_window(messages: list[tuple[int, str, int]]) -> None:
    rooms = rooms_at(0, window=1000)
    handed = [
        item for seq, epoch, mid in messages for item in receive(rooms, event(seq, epoch=epoch, mid=str(mid)))
    ]
    assert len({item.mid for item in handed}) == len(handed)


def test_a_replay_ends_at_the_rooms_position() -> None:
    """The filter holds back 7 to 9: after the replay they need not be asked for again."""
    rooms = Rooms(window=10)
    rooms.join(joined(9, recovered=True, replayed=2), ALL, Position("e", 3))
    assert position(rooms) == ("e", 3)
    receive(rooms, event(4))
    assert position(rooms) == ("e", 4)
    receive(rooms, event(6))
    assert position(rooms) == ("e", 9)


def test_a_replay_of_nothing_is_at_the_rooms_position() -> None:
    rooms = Rooms(window=10)
    assert rooms.join(joined(9, recovered=True), ALL, Position("e", 3)) == []
    assert position(rooms) == ("e", 9)


def test_a_hole_in_the_history_is_a_loss_that_the_gateway_announces() -> None:
    rooms = Rooms(window=10)
    assert rooms.join(joined(9, recovered=False, replayed=1), ALL, Position("e", 3)) == []
    announced = Envelope("lost", room="r", epoch="e", data={"from": 4, "to": 7, "reason": "history"})
    assert receive(rooms, announced) == [Lost(room="r", epoch="e", from_seq=4, to_seq=7, reason="history")]
    assert numbers(rooms, event(9)) == [9]


def test_a_hole_that_the_gateway_does_not_announce_is_a_loss_all_the_same() -> None:
    for following in (event(8), Envelope("pong", id=1), Envelope("reply", id=1)):
        rooms = Rooms(window=10)
        rooms.join(joined(9, recovered=False, replayed=2), ALL, Position("e", 3))
        assert numbers(rooms, event(8, room="other"), critical(9)) == [8, 9], (
            "these may overtake what is announced"
        )
        lost, *_ = receive(rooms, following)
        assert lost == Lost(room="r", epoch="e", from_seq=4, to_seq=7, reason="history")
        assert numbers(rooms, event(8), event(10))[-1] == 10, "once"


def test_after_a_loss_of_the_broker_the_position_is_in_the_new_order() -> None:
    rooms = rooms_at(3)
    following = {"epoch": "new", "seq": 2}
    for room in ("r", None):
        announced = Envelope(
            "lost", room=room, epoch="e", data={"from": 4, "reason": "epoch", "next": following}
        )
        assert receive(rooms, announced) == [
            Lost(room=room, epoch="e", from_seq=4, to_seq=None, reason="epoch")
        ]
    assert position(rooms) == ("new", 2)
    again = Envelope("event", room="r", event="e", seq=2, epoch="new", ts=0, mid="again")
    assert receive(rooms, again) == [], "it was there before"


def test_announcements_belong_to_their_room() -> None:
    rooms = Rooms(window=10)
    for name in ("a", "b"):
        reply = Joined(room=name, epoch="e", seq=9, recovered=False)
        rooms.join(reply, ALL, Position("e", 3))
    announced = Envelope("lost", room="b", epoch="e", data={"from": 4, "to": 5, "reason": "history"})
    (lost,) = receive(rooms, announced)
    assert isinstance(lost, Lost) and (lost.room, lost.to_seq) == ("b", 5)
    (lost,) = receive(rooms, Envelope("pong", id=1))
    assert isinstance(lost, Lost) and (lost.room, lost.to_seq) == ("a", 9)


def test_critical_events_overtake_without_making_others_duplicates() -> None:
    rooms = rooms_at(3)
    assert numbers(rooms, critical(7), event(4), event(5)) == [7, 4, 5]
    assert position(rooms) == ("e", 5), "6 is still to come, so a rejoin has to ask for it"
    assert numbers(rooms, event(6), critical(7), event(8)) == [6, 8], "the replay of 7 is known by its id"


def test_a_critical_event_does_not_count_as_part_of_a_replay_that_it_overtakes() -> None:
    rooms = Rooms(window=10)
    rooms.join(joined(5, recovered=True, replayed=2), ALL, Position("e", 3))
    assert numbers(rooms, critical(6), event(4), event(5), event(7)) == [6, 4, 5, 7]


def test_a_replay_may_hold_critical_events() -> None:
    rooms = Rooms(window=10)
    rooms.join(joined(5, recovered=True, replayed=2), ALL, Position("e", 3))
    assert numbers(rooms, event(4), critical(5)) == [4, 5]
    assert position(rooms) == ("e", 5)


def test_a_new_epoch_is_a_loss_without_end() -> None:
    rooms = Rooms(window=10)
    (lost,) = rooms.join(joined(2, "new", recovered=False, replayed=2), ALL, Position("old", 30))
    assert lost == Lost(room="r", epoch="old", from_seq=31, to_seq=None, reason="epoch")
    assert numbers(rooms, event(1, epoch="new"), event(2, epoch="new")) == [1, 2]


def test_joining_again_keeps_the_position() -> None:
    """Event 8 may still be on its way when the reply says 9."""
    rooms = rooms_at(7)
    options = JoinOptions(["x"], "conflate", "id")
    rooms.join(joined(9), options, None)
    room = rooms.joined["r"]
    assert (room.options, room.position) == (options, ("e", 7))
    assert numbers(rooms, event(8)) == [8]


def test_joining_again_with_since_repairs_without_duplicates() -> None:
    rooms = rooms_at(3)
    receive(rooms, event(4, mid="four"))
    announced = Envelope("lost", room="r", epoch="e", data={"from": 5, "to": 6, "reason": "slow"})
    assert receive(rooms, announced) == [
        Lost(room="r", epoch="e", from_seq=5, to_seq=6, reason="slow"),
    ]
    receive(rooms, event(7, mid="seven"))
    rooms.join(joined(7, recovered=True, replayed=4), ALL, Position("e", 3))
    replay = [event(4, mid="four"), event(5, mid="five"), event(6, mid="six"), event(7, mid="seven")]
    assert numbers(rooms, *replay) == [5, 6]
    assert position(rooms) == ("e", 7)


def test_a_loss_that_overtakes_older_events_makes_them_no_duplicates() -> None:
    rooms = rooms_at(3)
    receive(rooms, Envelope("lost", room="r", epoch="e", data={"from": 6, "to": 9, "reason": "slow"}))
    assert numbers(rooms, event(4), event(5), event(10)) == [4, 5, 10]


def test_events_to_the_organisation_that_went_by_are_a_loss() -> None:
    rooms = Rooms(window=10)
    assert numbers(rooms, event(1, room=None), event(3, room=None)) == [1, 3], "2 was not for this client"
    rooms.disconnected()
    assert receive(rooms, event(4, room=None, epoch="other"))[0].seq == 4, (
        "another order, of which nothing is known"
    )
    lost, item = receive(rooms, event(6, room=None))
    assert lost == Lost(room=None, epoch="e", from_seq=4, to_seq=5, reason="disconnected")
    assert item.seq == 6
    assert numbers(rooms, event(9, room=None)) == [9]


def test_no_event_to_the_organisation_went_by() -> None:
    rooms = Rooms(window=10)
    receive(rooms, event(1, room=None))
    rooms.disconnected()
    assert numbers(rooms, event(2, room=None)) == [2]


def test_orders_outside_rooms_are_bounded() -> None:
    rooms = Rooms(window=0)
    for epoch in range(100):
        receive(rooms, event(1, room=None, epoch=str(epoch)))
    assert len(rooms._orders) == 16


def test_events_of_rooms_that_were_left_are_handed_on() -> None:
    rooms = rooms_at(3)
    assert rooms.leave("r") is not None
    assert rooms.leave("r") is None
    assert numbers(rooms, event(1)) == [1]
    assert not rooms.joined


def presence(event: str, user: str, room: str = "r") -> Envelope:
    return Envelope("presence", room=room, event=event, ts=5, data={"user": user})


def test_who_comes_and_goes_is_told_once() -> None:
    rooms = Rooms(window=10)
    asked = JoinOptions(presence=True)
    assert asked.data(None) == {"presence": True}
    assert rooms.join(joined(3, users=("alice", "bob")), asked, None) == []
    assert receive(rooms, presence("join", "bob")) == []
    assert receive(rooms, presence("leave", "bob")) == [
        PresenceChange(event="leave", room="r", user="bob", ts=5)
    ]
    assert receive(rooms, presence("leave", "bob")) == []
    assert [item.event for item in receive(rooms, presence("join", "bob"))] == ["join"]
    rejoined = rooms.join(joined(3, users=("bob", "carol"), recovered=True), asked, Position("e", 3))
    assert [(item.event, item.user) for item in rejoined if isinstance(item, PresenceChange)] == [
        ("leave", "alice"),
        ("join", "carol"),
    ]
    assert receive(rooms, presence("join", "carol")) == []


def test_presence_that_was_not_asked_for_is_not_told() -> None:
    rooms = rooms_at(3)
    assert receive(rooms, presence("join", "bob")) == []
    assert receive(rooms, presence("join", "bob", room="other")) == []
    assert rooms.join(joined(3, users=("bob",)), JoinOptions(presence=True), None) == [], (
        "the reply tells them"
    )
    assert rooms.join(joined(3), ALL, None) == []
    assert receive(rooms, presence("leave", "bob")) == []
