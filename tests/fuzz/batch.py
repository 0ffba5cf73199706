"""One gateway, 250 sessions at the same time, and what must be true afterwards."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import signal
import socket
import ssl
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, cast
from unittest import mock

import msgspec
import structlog
import trio
import trio.testing
import trustme

from gateway.app import Gateway
from gateway.broker.redis import broker as redis
from gateway.broker.redis import writer
from gateway.config.settings import LogSettings
from gateway.hub.connection import Connection
from gateway.logs import configure
from gateway.testing.settings import make_settings
from gateway.transports.websocket import BEFORE_AUTH
from gateway.wire.listener import Accepted
from gateway.wire.tls import Handshakes
from protocol.errors import CloseCode, ErrorCode, ProtocolError
from tests.fuzz import corpus, reference
from tests.fuzz.peers import LONG, Heard, MemoryPeer, act_on_socket, act_over_tls
from tests.fuzz.plan import Plan, make_plan
from tests.fuzz.transcript import Transcript, Violation, read_transcript
from tests.support import held

__all__ = ["BatchResult", "run_batch"]

PATIENCE: Final = 600.0
"""Virtual seconds that all sessions of a batch together may take."""
REAL_PATIENCE: Final = 120
"""Real seconds for the same: a task that spins stops the virtual clock."""
_ANSWER: Final = 0.005
"""Real seconds in which Redis answers, on the same machine."""
_CALM: Final[dict[str, Any]] = {
    "redis": {"heartbeat": 60.0, "sweep": 300.0, "timeout": 30.0},
    "cluster": {"lease": 300.0},
}
"""Over Redis virtual time is dear (each step costs ``_ANSWER``), so what is done every second is
done less often."""

_SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "usual": {},
    "tls": {},
    "in_band": {"auth": {"in_band": True}, "connection": {"inactivity": 45.0}},
    "tight": {
        "limits": {
            "message_bytes": 1024, "queue_messages": 8, "queue_bytes": 65536, "rooms_per_connection": 2,
            "patterns_per_filter": 3, "pending_commands": 2, "body_bytes": 400, "head_bytes": 2048,
        },
        "rates": {
            "commands_per_connection": 4.0, "bytes_per_connection": 3000.0, "burst": 2.0, "abuse_after": 6,
        },
        "history": {"messages": 4, "rooms": 10, "page": 3},
        "trace": {"messages": 20, "records": 50},
    },
}  # fmt: skip


@dataclass
class BatchResult:
    """What came of some sessions."""

    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[tuple[int, str]] = field(default_factory=list)
    """Session (-1: the batch as a whole), and what was wrong."""
    seconds: float = 0.0
    log: str = ""
    transcripts: dict[int, bytes] = field(default_factory=dict)


class Hung(Exception):
    """A batch took too much real time."""


def run_batch(seed: int, numbers: range, broker: str = "memory") -> BatchResult:
    """Run the sessions ``numbers``, which must be of one batch, against a fresh gateway.

    A ``broker`` other than the one in memory is an empty server, of which the gateway knows nothing yet.
    """
    plans = [make_plan(seed, number) for number in numbers]
    result = BatchResult()
    begun = time.perf_counter()
    before = _descriptors()
    with _watching(result) as log:
        try:
            # Virtual time stands still while a server outside may yet answer.
            clock = trio.testing.MockClock(autojump_threshold=0 if broker == "memory" else _ANSWER)
            with mock.patch.object(writer, "_TICK", 10.0), mock.patch.object(redis, "_LOOK", 60.0):
                trio.run(_Batch(plans, result, broker).run, clock=clock)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            result.violations.append((-1, "".join(traceback.format_exception(error))))
        gc.collect()
    result.log = log.getvalue()
    for sign in ("Traceback", '"level": "error"', "Exception ignored", "eyJ"):
        if sign in result.log:
            result.violations.append((-1, f"{sign!r} in the log:\n{result.log[-4000:]}"))
    if _descriptors() > before:
        result.violations.append((-1, f"{_descriptors() - before} file descriptors are left"))
    result.seconds = time.perf_counter() - begun
    return result


@contextlib.contextmanager
def _watching(result: BatchResult) -> Iterator[io.StringIO]:
    """Collect the log and whatever Python itself complains of; end what takes far too long."""
    log = io.StringIO()
    root = logging.getLogger()
    handlers, level, hook = root.handlers[:], root.level, sys.unraisablehook

    def complain(unraisable: Any) -> None:
        log.write("Exception ignored\n")
        log.writelines(traceback.format_exception(unraisable.exc_value))

    def hung(_signal: int, _frame: object) -> None:
        raise Hung(f"more than {REAL_PATIENCE} s of real time")

    configure(LogSettings(format="json"), log)
    sys.unraisablehook = complain
    old_handler = signal.signal(signal.SIGALRM, hung)
    signal.alarm(REAL_PATIENCE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield log
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old_handler)
        sys.unraisablehook = hook
        structlog.reset_defaults()
        root.handlers[:] = handlers
        root.setLevel(level)


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class _Batch:
    """The sessions and their gateway."""

    def __init__(self, plans: list[Plan], result: BatchResult, broker: str) -> None:
        self._plans = plans
        self._result = result
        self._setup = plans[0].setup
        self._running = len(plans)
        self._ended = trio.Event()
        self._gateway = Gateway(
            make_settings(
                node="fuzz",
                broker=broker,
                **_SETTINGS[self._setup],
                **({} if broker == "memory" else _CALM),
            )
        )
        self._shared = broker != "memory"
        self._limit = self._gateway.settings.limits.message_bytes
        for name, handler in (("echo", _echo), ("refuse", _refuse), ("wait", _wait)):
            self._gateway.handle_call(name, handler)
        self._client_context: ssl.SSLContext | None = None
        if self._setup == "tls":
            self._client_context, server_context = _tls()
            self._gateway.listener._handshakes = Handshakes(server_context)

    async def run(self) -> None:
        """Run all sessions, then see that nothing is left of them."""
        gateway = self._gateway
        async with trio.open_nursery() as nursery:
            await nursery.start(gateway.run)
            self._prepare()
            await trio.testing.wait_all_tasks_blocked()
            tasks = _tasks()
            async with trio.open_nursery() as sessions:
                for plan in self._plans:
                    sessions.start_soon(self._session, plan, name=f"session {plan.number}")
                with trio.move_on_after(PATIENCE):
                    while self._running:
                        await self._ended.wait()
                for task in sessions.child_tasks:
                    if task.name.startswith("session "):
                        number = int(task.name.removeprefix("session "))
                        self._result.violations.append((number, "it hangs\n" + "\n".join(_stacks(task))))
                sessions.cancel_scope.cancel()
            if self._shared:
                await trio.sleep(60)  # what is left of the last rooms is looked after until then
            await trio.testing.wait_all_tasks_blocked()
            for what, count in {**self._remains(), "tasks": _tasks() - tasks}.items():
                if count > 0:
                    self._result.violations.append((-1, f"{what} left: {count}"))
            nursery.cancel_scope.cancel()

    def _prepare(self) -> None:
        """Have the broker know the resume tokens that the corpus names."""
        for place in map(corpus.Place.of, range(64)):
            rooms = [[room, None, "replay", "key", "", 0] for room in place.rooms[:3]]
            saved = [place.org, place.user, ["*"], [], False, rooms]
            self._gateway.broker.remember(
                place.org, f"resume:{place.resume}", msgspec.json.encode(saved), 1e6
            )

    def _remains(self) -> dict[str, float]:
        return held(self._gateway)

    async def _session(self, plan: Plan) -> None:
        heard = await self._act(plan)
        self._result.transcripts[plan.number] = bytes(heard.data)
        self._running -= 1
        self._ended.set()
        self._ended = trio.Event()
        try:
            self._result.outcomes[self._judge(plan, heard)] += 1
        except Violation as violation:
            said = f"{violation}; the end of what was said: {bytes(heard.data[-200:])!r}"
            self._result.violations.append((plan.number, said))
        except Exception as error:  # what cannot be read is not valid
            self._result.violations.append((plan.number, "".join(traceback.format_exception(error))))

    async def _act(self, plan: Plan) -> Heard:
        listener = self._gateway.listener
        listener.open += 1
        if plan.transport == "memory":
            peer = MemoryPeer(plan)
            stream = cast("trio.SSLStream[trio.SocketStream]", peer)
            await listener.serve(Accepted(f"10.0.0.{plan.number % 200}", stream=stream))
            return peer.heard
        theirs, ours = socket.socketpair()
        theirs.setblocking(False)
        ours.setblocking(False)
        if plan.deaf_after >= 0:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.serve, Accepted(f"10.0.1.{plan.number % 200}", theirs))
            if plan.transport == "tls":
                assert self._client_context is not None
                return await act_over_tls(plan, ours, self._client_context)
            return await act_on_socket(plan, ours)

    # --- what must be true of one session -----------------------------------------------------------

    def _judge(self, plan: Plan, heard: Heard) -> str:
        if self._setup == "tls" and plan.transport != "tls":
            return "no TLS"
        transcript = read_transcript(
            bytes(heard.data), heads_only=b"HEAD" in plan.sent or plan.kind != "websocket"
        )
        stayed = not heard.left and plan.deaf_after < 0
        if stayed:
            if not transcript.whole:
                raise Violation("an answer is cut off, and the peer was listening")
            if not transcript.statuses:
                raise Violation("nothing was answered, and the peer was listening")
            silent = heard.ended - heard.said_last
            late = heard.ended - heard.silent_until < 1  # it spoke again when it was being given up
            if transcript.upgraded and transcript.close is None and silent < LONG and not late:
                raise Violation(f"the connection ended without a Close after {silent} s of silence")
        if transcript.upgraded:
            self._compare(plan, heard, transcript, stayed=stayed)
        return transcript.outcome

    def _compare(self, plan: Plan, heard: Heard, transcript: Transcript, *, stayed: bool) -> None:
        """Hold what was said against the reference."""
        if plan.kind != "websocket" or not (plan.said or plan.ids is not None):
            return
        verdict = reference.judge(plan.said, self._limit)
        close = transcript.close
        earned = verdict.reason or close in {verdict.wrong, verdict.code}
        if close == CloseCode.PROTOCOL_ERROR and not earned:
            raise Violation(f"closed with 1002, but {verdict}")
        oversize = verdict.oversize
        if self._setup == "in_band" and close == CloseCode.TOO_LARGE:  # the bound before ``auth`` is lower
            oversize = oversize or reference.judge(plan.said, BEFORE_AUTH).oversize
        if close == CloseCode.TOO_LARGE and not (oversize or verdict.code == close):
            raise Violation(f"closed with 1009, but {verdict}")
        if stayed and heard.all_said and close is None and (verdict.closed or verdict.wrong):
            raise Violation(f"not closed, but {verdict}")
        if plan.ids is not None and close is not None and close == verdict.code and close != 1001:
            answered = Counter(
                message.id
                for message in transcript.messages
                if message.t in {"reply", "error", "pong", "connected"} and message.id is not None
            )
            due = {id: answered[id] for id in plan.ids}
            # What waits for Redis when its peer says goodbye is not waited for.
            lacks = not self._shared and due != Counter(plan.ids)
            if lacks or max(answered.values(), default=1) > 1:
                raise Violation(f"ids {plan.ids} were answered {dict(answered)}")


def _tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a client and of a gateway that it trusts."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return client, server


def _tasks(task: trio.lowlevel.Task | None = None) -> int:
    """Tasks below ``task``; of all when None."""
    task = task or trio.lowlevel.current_root_task()
    assert task is not None
    return sum(1 + _tasks(child) for nursery in task.child_nurseries for child in nursery.child_tasks)


def _stacks(task: trio.lowlevel.Task) -> Iterator[str]:
    """Where ``task`` and the tasks below it wait."""
    yield f"{task.name}:"
    for frame, line in task.iter_await_frames():
        yield f"    {frame.f_code.co_filename}:{line} {frame.f_code.co_name}"
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _stacks(child)


async def _echo(_connection: Connection, data: Any) -> Any:
    return data


async def _refuse(_connection: Connection, _data: Any) -> Any:
    raise ProtocolError(ErrorCode.CALL_REJECTED, "no")


async def _wait(_connection: Connection, data: Any) -> Any:
    await trio.sleep(3)
    return data
