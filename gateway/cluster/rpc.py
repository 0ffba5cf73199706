"""Questions and orders from node to node, and their answers, over Redis.

What one node tells another may be missed: pub/sub keeps nothing. So a question is repeated until its
answer is there or its time is over, and a node that gets one twice gives the same answer again without
doing it again. Together: it is done at least once when an answer comes, at most once in any case.
"""

from __future__ import annotations

import itertools
import secrets
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

import msgspec
import structlog
import trio

from gateway.broker.redis.client import Client
from gateway.config.settings import ClusterSettings
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["Answers", "Rpc"]

log = structlog.get_logger(__name__)

_EVERYBODY: Final = "nodes"
_REPEAT: Final = 0.25
"""Seconds after which a question without an answer is repeated."""
_REMEMBERED: Final = 4096
"""Answers kept for questions that come again."""
_REMEMBERED_BYTES: Final = 4096
"""A longer answer is not kept: only questions have such, and a question may be answered anew."""


class _Message(msgspec.Struct, array_like=True):
    """What travels: a question when there is an ``op``, else an answer; without ``id`` a call to look."""

    id: str
    sender: str
    op: str = ""
    data: Any = None
    error: tuple[int, str, float | None] | None = None


class Answers:
    """What other nodes said."""

    def __init__(self) -> None:
        self.good: dict[str, Any] = {}
        """Node → what it answered."""
        self.bad: dict[str, ProtocolError] = {}
        """Node → why it refused."""
        self.silent: set[str] = set()
        """Nodes that heard the question, or may have, and did not answer in time."""
        self.unheard: set[str] = set()
        """Nodes that do not listen: gone, or without a connection to Redis."""

    @property
    def missing(self) -> list[str]:
        """All that did not answer as they should."""
        return sorted({*self.bad, *self.silent, *self.unheard})

    def check(self) -> None:
        """Raise what a node refused with; TIMEOUT when one may have done it, and its answer did not come."""
        for error in self.bad.values():
            raise error
        if self.silent:
            text = f"node {min(self.silent)} did not answer in time; it may have been done all the same"
            raise ProtocolError(ErrorCode.TIMEOUT, text, retry_after=1.0)


class _Waiting:
    """A question on its way."""

    def __init__(self, nodes: Collection[str]) -> None:
        self.missing = set(nodes)
        self.answers = Answers()
        self.unheard: dict[str, int] = dict.fromkeys(nodes, 0)
        """How often nobody was there to hear it."""
        self.changed = trio.Event()
        self.failure: ProtocolError | None = None

    def take(self, message: _Message) -> None:
        if message.sender in self.missing:
            self.missing.discard(message.sender)
            if message.error is None:
                self.answers.good[message.sender] = message.data
            else:
                self.answers.bad[message.sender] = _error(*message.error)
            if not self.missing:
                self.changed.set()


class Rpc:
    """This node's part; ``run`` it to answer."""

    def __init__(
        self,
        client: Client,
        node: str,
        settings: ClusterSettings,
        answer: Callable[[str, Any], Any],
        hurried: Callable[[], None],
    ) -> None:
        """``answer(op, data)`` does what another node asks for; returns plain data, raises ProtocolError."""
        self._client = client
        self._node = node
        self._settings = settings
        self._answer = answer
        self._hurried = hurried
        self._waiting: dict[str, _Waiting] = {}
        self._answered: OrderedDict[str, bytes] = OrderedDict()
        self._ids = map("{}-{:x}".format, itertools.repeat(secrets.token_hex(6)), itertools.count())
        self._to_say, self._said = trio.open_memory_channel[tuple[str, bytes]](settings.pending)
        self.asked = 0
        self.unanswered = 0
        """Nodes that did not answer a question in time, since the start."""
        self.unsaid = 0
        """Answers that were given up, because too many waited or Redis was away."""

    @property
    def pending(self) -> int:
        """Questions that wait for answers."""
        return len(self._waiting)

    def listen(self) -> None:
        """Hear what is told to this node, and to all."""
        self._client.listen(_address(self._node), self._heard)
        self._client.listen(_EVERYBODY, self._heard)

    async def run(self) -> None:
        """Send answers until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(8):  # so that one slow shard does not hold up the others
                nursery.start_soon(self._say)

    async def _say(self) -> None:
        while True:
            name, payload = await self._said.receive()
            try:
                await self._client.tell(name, payload)
            except ProtocolError as error:
                self.unsaid += 1  # it will be asked again
                log.debug("answer not sent", reason=error.message)

    # --- asking -----------------------------------------------------------------------------------

    async def ask(self, nodes: Iterable[str], op: str, data: Any, *, all: bool = False) -> Answers:
        """Ask other nodes; returns the answers that came within ``cluster.answer_timeout``.

        ``all``: ``nodes`` are all the others, so telling everybody is cheaper. Raises BROKER_UNAVAILABLE, and
        OVERLOADED when ``cluster.pending`` questions are waiting.
        """
        waiting = _Waiting(frozenset(nodes) - {self._node})
        if not waiting.missing:
            return waiting.answers
        if len(self._waiting) >= self._settings.pending:
            raise ProtocolError(ErrorCode.OVERLOADED, "too many questions to other nodes", retry_after=1.0)
        id = next(self._ids)
        payload = _encode(_Message(id, self._node, op, data))
        self.asked += 1
        self._waiting[id] = waiting
        try:
            with trio.move_on_after(self._settings.answer_timeout):
                if all:
                    await self._client.tell(_EVERYBODY, payload)
                    await _patience(waiting)
                while waiting.missing:
                    await self._tell(waiting, payload)
                    await _patience(waiting)
        finally:
            del self._waiting[id]
        waiting.answers.silent |= waiting.missing
        self.unanswered += len(waiting.missing)
        return waiting.answers

    async def hurry(self) -> None:
        """Have the others look at once at what all keep together.

        Missing it costs them a moment, nothing else.
        """
        try:
            await self._client.tell(_EVERYBODY, _encode(_Message("", self._node)))
        except ProtocolError as error:
            log.debug("other nodes not notified", reason=error.message)

    async def _tell(self, waiting: _Waiting, payload: bytes) -> None:
        async with trio.open_nursery() as nursery:
            for node in waiting.missing:
                nursery.start_soon(self._tell_one, waiting, node, payload)
        if waiting.failure is not None:
            raise waiting.failure
        # A node that nobody has heard from twice is gone, or has no connection; its lease will show which.
        gone = {node for node in waiting.missing if waiting.unheard[node] >= 2}
        waiting.missing -= gone
        waiting.answers.unheard |= gone
        if not waiting.missing:
            waiting.changed.set()

    async def _tell_one(self, waiting: _Waiting, node: str, payload: bytes) -> None:
        try:
            if not await self._client.tell(_address(node), payload):
                waiting.unheard[node] += 1
        except ProtocolError as error:
            waiting.failure = error

    # --- hearing ----------------------------------------------------------------------------------

    def _heard(self, payload: bytes) -> None:
        try:
            message = _decode(payload)
        except msgspec.DecodeError as error:
            log.warning("unreadable message from another node", reason=str(error))
            return
        if message.sender == self._node:
            return
        if not message.id:
            self._hurried()
        elif message.op:
            self._heard_question(message)
        elif (waiting := self._waiting.get(message.id)) is not None:
            waiting.take(message)

    def _heard_question(self, question: _Message) -> None:
        payload = self._answered.get(question.id)
        if payload is None:
            answer = _Message(question.id, self._node)
            try:
                answer.data = self._answer(question.op, question.data)
            except ProtocolError as error:
                answer.error = (int(error.code), error.message, error.retry_after)
            except Exception:
                # The other node may be of another version: that must not end this one.
                log.exception("request from another node failed", op=question.op, node=question.sender)
                text = f"node {self._node} could not answer"
                answer.error = (int(ErrorCode.INTERNAL), text, None)
            payload = _encode(answer)
            if len(payload) > self._settings.answer_bytes:
                text = f"the answer of node {self._node} is larger than cluster.answer_bytes"
                payload = _encode(
                    _Message(question.id, self._node, error=(int(ErrorCode.TOO_LARGE), text, None))
                )
            if len(payload) <= _REMEMBERED_BYTES:
                self._answered[question.id] = payload
                if len(self._answered) > _REMEMBERED:
                    self._answered.popitem(last=False)
        try:
            self._to_say.send_nowait((_address(question.sender), payload))
        except trio.WouldBlock:
            self.unsaid += 1  # it will be asked again

    def measures(self) -> dict[str, tuple[str, float]]:
        """For the metrics."""
        return {
            "cluster_questions_pending": (
                "Questions to other nodes that wait for answers",
                len(self._waiting),
            ),
            "cluster_questions_total": ("Questions to other nodes since the start", self.asked),
            "cluster_unanswered_total": (
                "Nodes that did not answer a question in time, since the start",
                self.unanswered,
            ),
            "cluster_answers_dropped_total": ("Answers to other nodes that could not be sent", self.unsaid),
        }


async def _patience(waiting: _Waiting) -> None:
    with trio.move_on_after(_REPEAT):
        await waiting.changed.wait()


def _address(node: str) -> str:
    return f"node:{node}"


def _error(code: int, message: str, retry_after: float | None) -> ProtocolError:
    known = ErrorCode(code) if code in ErrorCode._value2member_map_ else ErrorCode.INTERNAL
    return ProtocolError(known, message, retry_after=retry_after)


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_Message).decode
