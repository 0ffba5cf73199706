"""The outbox against a naive model, over a socket and a stream that take what they like."""

from __future__ import annotations

import errno
import tracemalloc
from contextlib import AbstractContextManager
from unittest import mock

import pytest
import trio
import trio.testing
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from gateway.wire import outbox as outbox_module
from gateway.wire.flusher import Flusher
from gateway.wire.outbox import Outbox

MAX_MESSAGES = 8
MAX_BYTES = 400
RESERVE_MESSAGES = 3
RESERVE_BYTES = 100
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)


class Model:
    """What is promised: a torn frame first, then the urgent ones, then the others, each in its own order."""

    def __init__(self) -> None:
        self.torn = b""
        self.urgent: list[bytes] = []
        self.ordinary: list[bytes] = []
        self.out = b""
        self.broken = False

    @property
    def frames(self) -> list[bytes]:
        return [*([self.torn] if self.torn else []), *self.urgent, *self.ordinary]

    @property
    def pending(self) -> bytes:
        return b"".join(self.frames)

    def sent(self, count: int) -> None:
        """The peer has got ``count`` more bytes."""
        self.out += self.pending[:count]
        while count:
            for frames in ([self.torn] if self.torn else [], self.urgent, self.ordinary):
                if frames:
                    break
            taken = min(count, len(frames[0]))
            rest = frames.pop(0)[taken:]
            self.torn = rest
            count -= taken

    def discard(self) -> None:
        self.ordinary.clear()

    def clear(self) -> None:
        self.urgent.clear()
        self.ordinary.clear()

    def lose(self) -> None:
        self.torn = b""
        self.clear()
        self.broken = True

    def full_for(self, size: int, *, urgent: bool) -> bool:
        """Whether one frame more would break the bounds; an empty queue takes one of any size."""
        messages = MAX_MESSAGES + urgent * RESERVE_MESSAGES
        size += len(self.pending) - urgent * RESERVE_BYTES
        return bool(self.frames) and (len(self.frames) >= messages or size > MAX_BYTES)


class FakeSocket:
    """Takes as many bytes as it is allowed to, fails when told, and tells the model what it took."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.room = 0
        self.error: OSError | None = None
        self._writable = trio.Event()

    def send(self, data: bytes | memoryview) -> int:
        data = bytes(data)
        assert data, "nothing was sent"
        assert self._model.pending.startswith(data), "what is sent is not what is promised"
        if self.error is not None:
            self._model.lose()
            raise self.error
        if not self.room:
            raise BlockingIOError
        taken = min(self.room, len(data))
        self.room -= taken
        self._model.sent(taken)
        return taken

    def make_room(self, size: int) -> None:
        """The peer has read."""
        self.room += size
        self._writable.set()
        self._writable = trio.Event()

    def fail(self) -> None:
        """The peer is gone."""
        self.error = ConnectionResetError(errno.ECONNRESET, "reset")
        self.make_room(0)

    async def wait_writable(self, sock: object) -> None:
        assert sock is self
        while not (self.room or self.error):
            await self._writable.wait()
        await trio.lowlevel.checkpoint()


class FakeStream(trio.abc.SendStream):
    """Takes a byte at a time, as many as it is allowed to; what was given last is torn until all is taken."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.room = 0
        self.broken = False
        self._changed = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        data = bytes(data)
        assert data and data == self._model.pending, "what is sent is not what is promised"
        self._model.clear()
        self._model.torn = data  # nothing can be put in front of it any more
        while data and not self.broken:
            taken = min(self.room, len(data))
            self.room -= taken
            self._model.out += data[:taken]
            data = data[taken:]
            if data:
                await self._changed.wait()
        await trio.lowlevel.checkpoint()
        if data:
            self._model.lose()
            raise trio.BrokenResourceError
        self._model.torn = b""

    def make_room(self, size: int) -> None:
        self.room += size
        self._changed.set()
        self._changed = trio.Event()

    def fail(self) -> None:
        self.broken = True
        self.make_room(0)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


Operation = tuple[str, int]
USUAL = ["put"] * 8 + ["urgent"] * 4 + ["room"] * 4 + ["turn", "turn", "flush", "flush all"]
ENDINGS = ["seal", "seal and discard", "fail", "break off"]
SIZES = st.one_of(st.integers(1, 30), st.integers(1, 200))


def operations() -> st.SearchStrategy[list[Operation]]:
    """Some life, one ending at any place in it, and what may still come behind that."""
    usual = st.tuples(st.sampled_from(USUAL), SIZES)
    ending = st.tuples(st.sampled_from(ENDINGS), st.just(0))
    return st.builds(
        lambda life, end, rest: [*life, end, *rest],
        st.lists(usual, min_size=15, max_size=50),
        ending,
        st.lists(st.one_of(usual, usual, usual, ending), max_size=12),
    )


def bounds(at_once: int) -> AbstractContextManager[object]:
    """Small ones, so that few operations reach them."""
    return mock.patch.multiple(
        outbox_module, _MAX_SEND=at_once, _RESERVE_MESSAGES=RESERVE_MESSAGES, _RESERVE_BYTES=RESERVE_BYTES
    )


class Trial:
    """An outbox, its socket or stream, its writer task, and the model."""

    def __init__(self, plain: bool, closes_when_full: bool) -> None:
        self.model = Model()
        self.end: FakeSocket | FakeStream = FakeSocket(self.model) if plain else FakeStream(self.model)
        self.flusher = Flusher()
        self.box = Outbox(
            self.flusher,
            self.end if isinstance(self.end, FakeSocket) else None,  # type: ignore[arg-type]
            max_messages=MAX_MESSAGES,
            max_bytes=MAX_BYTES,
        )
        self.box.on_full = self._on_full
        self._closes_when_full = closes_when_full
        self._size = 0
        self._urgent = False
        self.refused = 0
        self.accepted: list[bytes] = []
        self.discarded = False

    async def write(self) -> None:
        if isinstance(self.end, FakeSocket):
            with mock.patch.object(trio.lowlevel, "wait_writable", self.end.wait_writable):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.flusher.run)
                    await self.box.write_socket(self.end)  # type: ignore[arg-type]
        else:
            await self.box.write_stream(self.end)

    def _on_full(self) -> None:
        self.refused += 1
        assert self.box.blocked, "a socket that may take more is not full"
        assert self.model.full_for(self._size, urgent=self._urgent)
        if self._closes_when_full:
            self.seal(discard=True)

    def put(self, size: int, *, urgent: bool) -> None:
        frame = bytes([1 + len(self.accepted) % 255]) * size
        self._size, self._urgent = size, urgent
        sealed, refused = self.box.sealed, self.refused
        if self.box.put_urgent(frame) if urgent else self.box.put(frame):
            assert not sealed and not self.model.full_for(size, urgent=urgent)
            (self.model.urgent if urgent else self.model.ordinary).append(frame)
            self.accepted.append(frame)
        elif sealed or self.model.broken:
            assert self.refused == refused
        else:
            assert self.refused == refused + 1

    def seal(self, *, discard: bool = False) -> None:
        sealed = self.box.sealed
        self.box.seal(b"\x00close", discard=discard)
        if not sealed:
            if discard:
                self.model.discard()
                self.discarded = True
            self.model.ordinary.append(b"\x00close")
            self.accepted.append(b"\x00close")

    async def do(self, name: str, size: int) -> None:
        match name:
            case "put" | "urgent":
                self.put(size, urgent=name == "urgent")
            case "room":
                self.end.make_room(size)
            case "turn":
                await trio.testing.wait_all_tasks_blocked()
            case "flush":
                self.box.flush()
            case "flush all":
                self.flusher.flush()
            case "seal" | "seal and discard":
                self.seal(discard=name != "seal")
            case "fail":
                self.end.fail()
            case "break off":
                self.box.break_off()
                self.model.lose()

    def check(self) -> None:
        box, model = self.box, self.model
        assert box.alone is None or not box.queue
        queue = box.queue if box.alone is None else [box.alone]
        assert b"".join(queue) == model.pending
        assert box.waiting == len(model.frames)
        assert box.size == len(model.pending)
        assert box.torn == bool(model.torn)
        assert box._urgent == len(model.urgent)
        assert box.broken == model.broken
        assert box.size or not box.blocked
        assert not box.size or box.blocked or box in box.share.dirty, "nobody will send this"


@pytest.mark.parametrize("plain", [True, False], ids=["socket", "stream"])
@given(operations=operations(), closes_when_full=st.booleans(), at_once=st.sampled_from([64, 64, 4096]))
@settings(deadline=None, max_examples=150, phases=PHASES)
async def test_against_the_model(
    plain: bool, operations: list[Operation], closes_when_full: bool, at_once: int
) -> None:
    trial = Trial(plain, closes_when_full)
    with bounds(at_once):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trial.write)
            for operation in operations:
                await trial.do(*operation)
                if operation[0] != "room" and operation[0] != "fail":
                    trial.check()
            # In the end everything comes out that was promised.
            for _ in range(10):
                trial.end.make_room(10_000)
                trial.box.flush()
                await trio.testing.wait_all_tasks_blocked()
            trial.check()
            assert trial.model.pending == b""
            if not (trial.model.broken or trial.discarded):
                assert sorted(trial.model.out) == sorted(b"".join(trial.accepted))
                assert trial.box.sent_messages == len(trial.accepted)
                assert trial.box.share.sent_bytes == len(trial.model.out)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("plain", [True, False], ids=["socket", "stream"])
@given(operations=operations(), steps=st.integers(0, 30))
@settings(deadline=None, max_examples=60, phases=PHASES)
async def test_a_cancelled_writer_leaves_what_it_did_not_send(
    plain: bool, operations: list[Operation], steps: int
) -> None:
    """Cancelled wherever it waits: what is left is whole frames, but for the torn one at the head."""
    trial = Trial(plain, closes_when_full=False)
    scope = trio.CancelScope()

    async def write() -> None:
        with scope:
            await trial.write()

    with bounds(64):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            for number, operation in enumerate(operations):
                if number == steps:
                    scope.cancel()
                    await trio.testing.wait_all_tasks_blocked()
                    break
                await trial.do(*operation)
            if not trial.model.broken:
                before = trial.model.out
                trial.check()
                trial.end.make_room(10_000)
                await trio.testing.wait_all_tasks_blocked()
                if scope.cancelled_caught:
                    assert trial.model.out == before, "a cancelled writer writes"
            trial.box.break_off()
            assert not trial.box.put(b"late") and not trial.box.put_urgent(b"late") and trial.box.size == 0
            nursery.cancel_scope.cancel()


async def test_all_that_is_queued_is_out_when_emptied_returns() -> None:
    for plain in (True, False):
        trial = Trial(plain, closes_when_full=False)
        trial.put(100, urgent=False)
        trial.seal()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trial.write)
            nursery.start_soon(trial.box.emptied)
            for _ in range(10):
                await trio.testing.wait_all_tasks_blocked()
                assert len(nursery.child_tasks) == 2
                trial.end.make_room(10)
            trial.end.make_room(10)
            await trio.testing.wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 1
            nursery.cancel_scope.cancel()
        assert trial.model.out == b"".join(trial.accepted)


async def test_emptied_returns_when_the_socket_is_gone() -> None:
    for plain in (True, False):
        trial = Trial(plain, closes_when_full=False)
        trial.put(100, urgent=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trial.write)
            nursery.start_soon(trial.box.emptied)
            await trio.testing.wait_all_tasks_blocked()
            trial.end.fail()
            await trio.testing.wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 1
            nursery.cancel_scope.cancel()


def test_a_large_frame_is_not_copied_for_each_piece_of_it() -> None:
    """Otherwise 32 MiB at the pace of a socket buffer would copy gigabytes."""
    sock = FakeSocket(Model())
    given: list[int] = []

    def send(data: bytes | memoryview) -> int:
        given.append(len(data))
        return 1000

    sock.send = send  # type: ignore[method-assign]
    box = Outbox(Flusher(), sock, max_messages=10, max_bytes=2**30)  # type: ignore[arg-type]
    frame = bytes(2**20)
    assert box.put(frame) and box.put(frame)
    tracemalloc.start()
    try:
        for _ in range(100):
            box.blocked = False
            box.flush()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert max(given) <= 256 * 1024
    assert box.size == 2 * 2**20 - 100_000
    assert peak < 100_000
