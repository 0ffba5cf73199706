"""What other nodes ask of this one: carried out once each, by a handler for its type, within its deadline.

A request may come again, because its answer got lost or takes long. While its handler runs it is left
alone; once there is an answer, the same answer is given again. Handlers may wait: each request has a task of
its own, and those that came one after the other begin in that order.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog
import trio

from gateway.cluster.requests import Message, Request, decode_request, encode
from gateway.config.settings import ClusterSettings
from protocol.errors import ErrorCode, ProtocolError

if TYPE_CHECKING:
    from gateway.broker.redis.client import Client

__all__ = ["Answering", "Handlers", "address"]

log = structlog.get_logger(__name__)

Handlers = Mapping[type[Request[Any]], Callable[[Any], Awaitable[Any]]]
"""Kind of request → what carries it out; returns the answer, raises ``ProtocolError``."""

_REMEMBERED: Final = 4096
"""Answers kept for requests that come again."""
_REMEMBERED_BYTES: Final = 4096
"""A longer answer is not kept: only questions have such, and a question may be answered anew."""
_RUNNING_BYTES: Final = 64 * 2**20
"""Bytes of all requests that are being carried out."""


def address(node: str) -> str:
    """Where a node hears what is told to it alone."""
    return f"node:{node}"


class Answering:
    """This node's part of answering; ``run`` it, or nothing is answered."""

    def __init__(self, client: Client, node: str, settings: ClusterSettings, handlers: Handlers) -> None:
        self._client = client
        self._node = node
        self._settings = settings
        self._handlers = handlers
        self._answered: OrderedDict[str, bytes] = OrderedDict()
        self._running: set[str] = set()
        self._running_bytes = 0
        # Both are bounded where they are filled: by ``cluster.pending``, the first in bytes, too.
        self._to_do, self._heard = trio.open_memory_channel[tuple[Message, int]](math.inf)
        self._to_say, self._said = trio.open_memory_channel[tuple[str, bytes]](settings.pending)
        self.unsaid = 0
        """Answers that were given up, because too many waited or Redis was away."""

    @property
    def running(self) -> int:
        """Requests that are being carried out."""
        return len(self._running)

    async def run(self) -> None:
        """Carry out requests and send answers until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(8):  # so that one slow shard does not hold up the others
                nursery.start_soon(self._say)
            # Receiving gives way to other tasks each time, so handlers begin in the order of their requests.
            async for request, size in self._heard:
                nursery.start_soon(self._carry_out, request, size)

    async def _say(self) -> None:
        while True:
            name, payload = await self._said.receive()
            try:
                await self._client.tell(name, payload)
            except ProtocolError as error:
                self.unsaid += 1  # it will be asked again
                log.debug("an answer was not sent", reason=error.message)

    def take(self, request: Message, size: int) -> None:
        """Another node has sent this request of ``size`` bytes."""
        known = self._answered.get(request.id)
        if known is not None:
            self._give(request.sender, known)
        elif request.id in self._running:
            return
        elif self.running >= self._settings.pending or (
            self._running and self._running_bytes + size > _RUNNING_BYTES
        ):
            text = f"node {self._node} carries out too many requests"
            self._answer(request, _refusal(ProtocolError(ErrorCode.OVERLOADED, text, retry_after=1.0)))
        else:
            self._running.add(request.id)
            self._running_bytes += size
            self._to_do.send_nowait((request, size))

    async def _carry_out(self, request: Message, size: int) -> None:
        try:
            answer = await self._result_of(request)
        finally:
            self._running.discard(request.id)
            self._running_bytes -= size
        self._answer(request, answer)

    async def _result_of(self, request: Message) -> Message:
        try:
            wanted = decode_request(request)
            with trio.fail_after(request.patience or self._settings.answer_timeout):
                found = await self._handlers[type(wanted)](wanted)
            return Message("", "", data=msgspec.Raw(encode(found)))
        except ProtocolError as error:
            return _refusal(error)
        except trio.TooSlowError:
            text = f"node {self._node} was not done in time; it may have been done in part"
            return _refusal(ProtocolError(ErrorCode.TIMEOUT, text, retry_after=1.0))
        except Exception:
            # The other node may be of another version: that must not end this one.
            log.exception("a request of another node failed", op=request.op, node=request.sender)
            return _refusal(ProtocolError(ErrorCode.INTERNAL, f"node {self._node} could not answer"))

    def _answer(self, request: Message, answer: Message) -> None:
        answer.id, answer.sender = request.id, self._node
        payload = encode(answer)
        if len(payload) > self._settings.answer_bytes:
            text = f"the answer of node {self._node} is larger than cluster.answer_bytes"
            refusal = _refusal(ProtocolError(ErrorCode.TOO_LARGE, text))
            refusal.id, refusal.sender = request.id, self._node
            payload = encode(refusal)
        if len(payload) <= _REMEMBERED_BYTES:
            self._answered[request.id] = payload
            if len(self._answered) > _REMEMBERED:
                self._answered.popitem(last=False)
        self._give(request.sender, payload)

    def _give(self, node: str, payload: bytes) -> None:
        try:
            self._to_say.send_nowait((address(node), payload))
        except trio.WouldBlock:
            self.unsaid += 1  # it will be asked again


def _refusal(error: ProtocolError) -> Message:
    return Message("", "", error=(int(error.code), error.message, error.retry_after))
