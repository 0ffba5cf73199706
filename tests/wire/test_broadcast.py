"""A broadcast: nobody can tell it from frames that were put into each outbox at once."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio

from gateway.wire import broadcast
from gateway.wire import outbox as outbox_module
from gateway.wire.broadcast import Broadcast
from gateway.wire.flusher import Flusher
from gateway.wire.outbox import Outbox


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sockets here are no real ones."""
    monkeypatch.setattr(broadcast, "_SEND", lambda sock, data: sock.send(data))


class Socket:
    """Takes ``room`` bytes and no more."""

    def __init__(self) -> None:
        self.got = b""
        self.room = 1_000_000
        self.sends = 0
        self.dead = False

    def send(self, data: bytes) -> int:
        if self.dead:
            raise ConnectionResetError
        if not self.room:
            raise BlockingIOError
        self.sends += 1
        taken = min(self.room, len(data))
        self.room -= taken
        self.got += bytes(data[:taken])
        return taken


class Member:
    """An outbox, and what should leave it."""

    def __init__(self, flusher: Flusher) -> None:
        self.sock: Any = Socket()
        self.outbox = Outbox(flusher, self.sock, max_messages=10_000, max_bytes=1_000_000)
        self.expected = b""

    def put(self, frame: bytes) -> None:
        if self.outbox.put(frame):
            self.expected += frame

    def drain(self) -> None:
        """What the writer task does when the socket has become writable."""
        self.sock.room = 1_000_000
        if self.outbox.blocked:
            self.outbox.blocked = False
            self.outbox.flush()
            if not self.outbox.sealed:
                self.outbox.share.slow.discard(self.outbox)


class Scene:
    def __init__(self, count: int) -> None:
        self.flusher = Flusher(slice_seconds=0)
        self.present: dict[Outbox, Member] = {}
        self.all: list[Member] = []
        self.broadcast = Broadcast(self.flusher.share, self.present)
        for _ in range(count):
            self.enter()

    def enter(self, member: Member | None = None) -> Member:
        if member is None:
            member = Member(self.flusher)
            self.all.append(member)
        self.present[member.outbox] = member
        self.broadcast.entered(member.outbox)
        return member

    def leave(self, member: Member) -> None:
        self.broadcast.leaving(member.outbox)
        del self.present[member.outbox]

    def say(self, frame: bytes) -> None:
        for member in self.present.values():
            if not member.outbox.sealed:
                member.expected += frame
        assert self.broadcast.put(frame) == len(self.present)

    def flush_all(self) -> None:
        while self.flusher.active:
            self.flusher.flush()


def test_frames_that_wait_together_leave_in_one_send() -> None:
    scene = Scene(80)
    for number in range(10):
        scene.say(b"<%d>" % number)
    assert not any(member.sock.sends for member in scene.all)
    scene.flush_all()
    assert [member.sock.got for member in scene.all] == [scene.all[0].expected] * 80
    assert {member.sock.sends for member in scene.all} == {1}
    assert {member.outbox.sent_messages for member in scene.all} == {10}
    assert scene.flusher.share.sent_bytes == 80 * len(scene.all[0].expected)


def test_a_pass_is_made_in_slices() -> None:
    scene = Scene(100)
    scene.say(b"x")
    scene.flusher.flush()
    assert sum(member.sock.sends for member in scene.all) == 48


def test_what_is_put_later_comes_behind() -> None:
    scene = Scene(80)
    scene.say(b"<first>")
    scene.all[79].put(b"<own>")
    scene.flusher.flush()
    scene.say(b"<second>")
    scene.all[78].put(b"<own>")
    scene.flush_all()
    assert scene.all[79].sock.got == b"<first><own><second>"
    assert scene.all[78].sock.got == b"<first><second><own>"


def test_who_comes_gets_only_what_comes_after() -> None:
    scene = Scene(80)
    scene.say(b"<before>")
    late = scene.enter()
    scene.say(b"<after>")
    scene.flush_all()
    assert late.sock.got == b"<after>"
    assert scene.all[0].sock.got == b"<before><after>"


def test_who_leaves_gets_what_was_said_before() -> None:
    scene = Scene(80)
    scene.say(b"<before>")
    scene.flusher.flush()
    for member in (scene.all[0], scene.all[75]):  # one has had it, one has not
        scene.leave(member)
        member.put(b"<left>")
    scene.say(b"<after>")
    scene.flush_all()
    assert scene.all[0].sock.got == scene.all[75].sock.got == b"<before><left>"
    assert scene.all[76].sock.got == b"<before><after>"


def test_a_close_frame_comes_behind_and_nothing_after_it() -> None:
    scene = Scene(80)
    scene.say(b"<event>")
    scene.all[20].outbox.seal(b"<close>")
    scene.say(b"<late>")
    scene.flush_all()
    assert scene.all[20].sock.got == b"<event><close>"


def test_a_dead_socket_harms_nobody_else() -> None:
    scene = Scene(80)
    scene.all[3].sock.dead = True
    scene.say(b"x")
    scene.flush_all()
    assert scene.all[3].outbox.broken
    assert [member.sock.got for member in scene.all].count(b"x") == 79


def test_an_outbox_that_was_broken_off_is_not_written_to() -> None:
    scene = Scene(80)
    scene.say(b"x")
    scene.flusher.flush()
    scene.all[79].outbox.break_off()
    scene.flush_all()
    assert scene.all[79].sock.got == b""
    scene.all[79].outbox.end()
    assert not scene.flusher.share.slow


def test_a_slot_begins_at_zero_for_the_next_one() -> None:
    scene = Scene(20)
    scene.say(b"x")
    scene.flush_all()
    scene.leave(scene.all[0])
    scene.all[0].outbox.end()
    assert scene.all[0].outbox.sent_messages == 1
    assert scene.enter().outbox.sent_messages == 0


def test_too_much_is_sent_before_more_is_taken() -> None:
    scene = Scene(80)
    for number in range(1024):
        scene.say(b"<%d>" % number)
    assert scene.all[79].sock.got == b""
    expected = scene.all[79].expected
    scene.say(b"<one more>")
    assert [member.sock.got for member in scene.all] == [expected] * 80


async def test_members_that_are_no_plain_sockets_get_it_from_their_writers() -> None:
    flusher = Flusher()
    ends = [trio.testing.memory_stream_one_way_pair() for _ in range(20)]
    outboxes = {Outbox(flusher, None, max_messages=10, max_bytes=1000): end for end in ends}
    broadcast = Broadcast(flusher.share, outboxes)
    broadcast.put(b"hello")
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for outbox, (sender, _) in outboxes.items():
                nursery.start_soon(outbox.write_stream, sender)
            flusher.flush()
            for _, receiver in ends:
                assert await receiver.receive_some() == b"hello"
            nursery.cancel_scope.cancel()


def test_a_large_event_goes_out_in_turns() -> None:
    """Nobody waits for more than one piece of it for one member."""
    scene = Scene(100)
    large = bytes(1_000_000)
    scene.say(large)
    assert not any(member.sock.sends for member in scene.all)
    sent = 0
    for _ in range(50):
        scene.flusher.flush()
        before, sent = sent, sum(len(member.sock.got) for member in scene.all)
        assert 0 < sent - before <= 2 * 65536
    scene.say(b"<and>")
    while not all(member.sock.got == large + b"<and>" for member in scene.all):
        for member in scene.all:
            member.drain()
        scene.flush_all()


def test_large_events_that_wait_are_queued_for_each_member_and_sent_in_turns() -> None:
    scene = Scene(100)
    frames = [b"<%d>" % number + bytes(90_000) for number in range(5)]
    for frame in frames:
        scene.say(frame)
    assert not any(member.sock.sends for member in scene.all)
    scene.flusher.flush()
    assert 0 < sum(len(member.sock.got) for member in scene.all) <= 4 * 65536
    scene.flush_all()
    assert {member.sock.got for member in scene.all} == {b"".join(frames)}
    assert {member.outbox.sent_messages for member in scene.all} == {5}


@pytest.mark.parametrize("large", [None, 40, 150], ids=["small", "pieces", "large"])
@pytest.mark.parametrize("seed", range(120))
def test_any_course_of_events_gives_everyone_what_is_theirs_in_order(
    seed: int, large: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when what is said is large, and goes out in pieces."""
    if large is not None:
        monkeypatch.setattr(outbox_module, "_MAX_SEND", 32)
        monkeypatch.setattr(broadcast, "_LARGE", 16)
        monkeypatch.setattr(broadcast, "_MAX_BYTES", 128)
    chance = random.Random(seed)
    scene = Scene(chance.choice([1, 20, 40, 100]))
    away: list[Member] = []
    steps = ["say", "say", "flush", "flush", "own", "burst", "leave", "enter", "back", "full", "drain", "end"]
    for step in range(200):
        member = chance.choice(scene.all)
        match chance.choice(steps):
            case "say":
                scene.say(b"<%d>" % step + bytes(chance.choice([0, large or 0])))
            case "flush":
                scene.flusher.flush()
            case "own":
                member.put(b"[%d]" % step)
            case "burst":
                for each in scene.all:
                    each.put(b"[%d]" % step)
            case "leave" if member.outbox in scene.present:
                scene.leave(member)
                away.append(member)
            case "back" if away:
                scene.enter(away.pop())
            case "enter":
                scene.enter()
            case "full":
                member.sock.room = chance.randrange(5)
            case "drain":
                member.drain()
            case "end" if not member.outbox.sealed and chance.random() < 0.2:
                member.expected += b"<close>"
                member.outbox.seal(b"<close>")
    for member in scene.all:
        member.drain()
    scene.flush_all()
    for member in scene.all:
        member.drain()
        assert member.sock.got == member.expected
        assert member.outbox.sent_messages == member.expected.count(b"<") + member.expected.count(b"[")
    assert not scene.flusher.share.broadcasts and scene.broadcast.done


def test_only_members_that_are_slow_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """One who is blocked costs its own room one look, and other rooms of its organisation none."""
    looked_at: list[Outbox] = []
    carefully = Broadcast._send_carefully

    def spy(self: Broadcast, current: Any, outbox: Outbox) -> None:
        looked_at.append(outbox)
        carefully(self, current, outbox)

    monkeypatch.setattr(Broadcast, "_send_carefully", spy)
    scene = Scene(500)
    stranger = Member(scene.flusher)
    stranger.sock.room = 0
    stranger.outbox.put(b"stuck")
    stranger.outbox.flush()
    assert stranger.outbox.blocked

    def send(frame: bytes) -> None:
        scene.broadcast.put(frame)
        while scene.flusher.active:
            scene.flusher.flush()

    send(b"first")
    assert looked_at == []
    slow = scene.all[250]
    slow.sock.room = 0
    send(b"second")
    assert looked_at == []
    send(b"third")
    assert looked_at == [slow.outbox]
    slow.drain()
    assert {member.sock.got for member in scene.all} == {b"firstsecondthird"}
