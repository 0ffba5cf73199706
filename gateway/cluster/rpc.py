"""Requests from node to node, and their answers, over Redis.

What one node tells another may be missed: pub/sub keeps nothing. So a request is repeated until its
answer is there or its time is over, and a node that gets one twice gives the same answer again without
doing it again (``answering.py``). Together: at least once when an answer comes, at most once in any case.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final, Generic, TypeVar

import msgspec
import structlog
import trio

from gateway.broker.redis.client import Client
from gateway.cluster.answering import Answering, Handlers, address
from gateway.cluster.requests import Message, Request, decode, decode_answer, encode, encode_request
from gateway.config.settings import ClusterSettings
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["Answers", "Rpc"]

log = structlog.get_logger(__name__)

_EVERYBODY: Final = "nodes"
_REPEAT: Final = 0.25
"""Seconds after which a question without an answer is repeated."""
T = TypeVar("T")


class Answers(Generic[T]):
    """What other nodes said."""

    def __init__(self) -> None:
        self.good: dict[str, T] = {}
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


class _Waiting(Generic[T]):
    """A request on its way."""

    def __init__(self, nodes: Collection[str], kind: type[Request[T]]) -> None:
        self._kind = kind
        self.missing = set(nodes)
        self.answers: Answers[T] = Answers()
        self.unheard: dict[str, int] = dict.fromkeys(nodes, 0)
        """How often nobody was there to hear it."""
        self.changed = trio.Event()
        self.failure: ProtocolError | None = None

    def take(self, message: Message) -> None:
        """An answer has come."""
        node = message.sender
        if node not in self.missing:
            return
        self.missing.discard(node)
        if message.error is not None:
            self.answers.bad[node] = _error(*message.error)
        else:
            try:
                self.answers.good[node] = decode_answer(self._kind, message.data)
            except msgspec.DecodeError as error:
                log.warning("another node's answer cannot be read", node=node, reason=str(error))
                text = f"the answer of node {node} cannot be read"
                self.answers.bad[node] = ProtocolError(ErrorCode.INTERNAL, text)
        if not self.missing:
            self.changed.set()


class Rpc:
    """This node's part; ``run`` it to answer."""

    def __init__(
        self,
        client: Client,
        node: str,
        settings: ClusterSettings,
        handlers: Handlers,
        hurried: Callable[[], None],
    ) -> None:
        self._client = client
        self._node = node
        self._settings = settings
        self._hurried = hurried
        self.answering = Answering(client, node, settings, handlers)
        self._waiting: dict[str, _Waiting[Any]] = {}
        self._ids = map("{}-{:x}".format, itertools.repeat(secrets.token_hex(6)), itertools.count())
        self.asked = 0
        self.unanswered = 0
        """Nodes that did not answer a question in time, since the start."""

    @property
    def pending(self) -> int:
        """Questions that wait for answers."""
        return len(self._waiting)

    def listen(self) -> None:
        """Hear what is told to this node, and to all."""
        self._client.listen(address(self._node), self._heard)
        self._client.listen(_EVERYBODY, self._heard)

    async def run(self) -> None:
        """Answer the others until cancelled."""
        await self.answering.run()

    # --- asking -----------------------------------------------------------------------------------

    async def ask(self, nodes: Iterable[str], request: Request[T], *, all: bool = False) -> Answers[T]:
        """Send a request to other nodes; returns the answers that came within ``cluster.answer_timeout``.

        ``all``: ``nodes`` are all the others, so telling everybody is cheaper. Raises BROKER_UNAVAILABLE, and
        OVERLOADED when ``cluster.pending`` questions are waiting.
        """
        waiting = _Waiting(frozenset(nodes) - {self._node}, type(request))
        if not waiting.missing:
            return waiting.answers
        if len(self._waiting) >= self._settings.pending:
            raise ProtocolError(ErrorCode.OVERLOADED, "too many requests to other nodes", retry_after=1.0)
        id = next(self._ids)
        payload = encode_request(id, self._node, request, self._settings.answer_timeout)
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
            await self._client.tell(_EVERYBODY, encode(Message("", self._node)))
        except ProtocolError as error:
            log.debug("other nodes not notified", reason=error.message)

    async def _tell(self, waiting: _Waiting[Any], payload: bytes) -> None:
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

    async def _tell_one(self, waiting: _Waiting[Any], node: str, payload: bytes) -> None:
        try:
            if not await self._client.tell(address(node), payload):
                waiting.unheard[node] += 1
        except ProtocolError as error:
            waiting.failure = error

    # --- hearing ----------------------------------------------------------------------------------

    def _heard(self, payload: bytes) -> None:
        try:
            message = decode(payload)
        except msgspec.DecodeError as error:
            log.warning("unreadable message from another node", reason=str(error))
            return
        if message.sender == self._node:
            return
        if not message.id:
            self._hurried()
        elif message.op:
            self.answering.take(message, len(payload))
        elif (waiting := self._waiting.get(message.id)) is not None:
            waiting.take(message)

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
            "cluster_requests_running": (
                "Requests of other nodes that are being carried out",
                self.answering.running,
            ),
            "cluster_answers_dropped_total": (
                "Answers to other nodes that could not be sent",
                self.answering.unsaid,
            ),
        }


async def _patience(waiting: _Waiting[Any]) -> None:
    with trio.move_on_after(_REPEAT):
        await waiting.changed.wait()


def _error(code: int, message: str, retry_after: float | None) -> ProtocolError:
    known = ErrorCode(code) if code in ErrorCode._value2member_map_ else ErrorCode.INTERNAL
    return ProtocolError(known, message, retry_after=retry_after)
