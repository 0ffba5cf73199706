"""What outlives a connection: the rooms, the filter, the waiting commands, and the loop that reconnects.

A command belongs to the task that called it. It waits for a connection, sends, and waits for the
reply; when the connection is lost meanwhile it begins again on the next one, where that is safe.
Nothing is queued for a caller that has gone.
"""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import Any, Final

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec

from gateway.client.backoff import Backoff, Retries
from gateway.client.course import Course
from gateway.client.ended import Ended
from gateway.client.errors import (
    ClientClosed,
    ClientError,
    CommandError,
    CommandInterrupted,
    CommandTimeout,
    ConnectError,
    ConnectionClosed,
    ReconnectFailed,
    TooManyPending,
)
from gateway.client.handshake import Welcome, establish
from gateway.client.inbox import Inbox, InboxClosed
from gateway.client.link import Handlers, Link, LinkLost, OnReply
from gateway.client.messages import ConnectionInfo, Event, Refreshed
from gateway.client.options import Options, Token
from gateway.client.renewal import Renewal
from gateway.client.replies import command_error, refreshed
from gateway.client.restore import FilterState, Restorer
from gateway.client.rooms import Rooms
from protocol.envelope import Envelope
from protocol.errors import CloseCode, ErrorCode, ProtocolError
from protocol.values import check_value

__all__ = ["Session", "State"]

log = logging.getLogger("gateway.client")

_BROKEN: Final = 1006


class State(StrEnum):
    """Before the first connection, with one, between two, after the last."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


class Session:
    """The client's engine, to which ``Client`` adds a method for each command."""

    def __init__(self, options: Options, token: Token) -> None:
        self.options = options
        self.token = token
        self.state = State.CONNECTING
        self.info: ConnectionInfo | None = None
        self.rooms = Rooms(window=options.window)
        self.filter = FilterState()
        self.failure: ClientError | None = None
        """Why there will be no connection any more."""
        self.transport = options.kinds[0]
        """What the current connection runs over, or the last one did."""
        self._course = Course(options.kinds, options.websocket_retry)
        self._better: Welcome | None = None
        self._link: Link | None = None
        self._renewal: Renewal | None = None
        self._changed = anyio.Event()
        self._waiting = 0
        self._inbox: Inbox[Event] = Inbox(options.buffer)

    # ---- connections -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect and reconnect until that is hopeless; then :attr:`failure` says why."""
        raised: Exception | None = None
        async with anyio.create_task_group() as tasks:
            try:
                self.fail(await self._stay_connected(tasks))
                self.finish()
            except Exception as error:
                raised = error  # by the callback; this task group would make a group of it
            finally:
                if self._better is not None:
                    await self._better.transport.aclose(1000, self.options.close_timeout)
        if raised is not None:
            raise raised

    async def _stay_connected(self, tasks: anyio.abc.TaskGroup) -> ClientError:
        policy = self.options.reconnect
        retries = Retries(policy or Backoff())
        where = self.options.address.authority
        while True:
            error: ClientError
            try:
                ended, lived = await self._connection(tasks)
            except ConnectError as failed:
                error, again, retry_after = failed, self._worth_another(failed), failed.retry_after
            else:
                error = ConnectionClosed(ended.code, ended.reason)
                # A refused token is not the end for who can ask for another.
                renewable = ended.code == CloseCode.POLICY_VIOLATION and callable(self.token)
                again, retry_after = ended.reconnect or renewable, ended.retry_after
                if self._better is not None:
                    continue  # it is there already
                if policy is not None and lived >= policy.stable:
                    retries.afresh()
            if policy is None or not again or (self.info is None and not self.options.retry_first):
                return error
            if retries.failed():
                gave_up = ReconnectFailed(retries.failures - 1)
                gave_up.__cause__ = error
                if policy.give_up:
                    return gave_up
                log.warning("gateway at %s: %s, continuing: %s", where, gave_up, error)
                if self.options.reconnect_failed is not None:
                    self.options.reconnect_failed(gave_up)
            delay = retries.wait(retry_after)
            if retries.failures == 1:
                log.warning("gateway at %s: %s; trying again in %.1f s", where, error, delay)
            await anyio.sleep(delay)

    def _worth_another(self, error: ConnectError) -> bool:
        """Whether another try can help: always, but for the token, where a gateway was there before."""
        if error.token:
            return callable(self.token)
        return error.retry or self.info is not None

    async def _connection(self, tasks: anyio.abc.TaskGroup) -> tuple[Ended, float]:
        """One connection, from the dialling to its end, and how many seconds it lived.

        Raises ConnectError when none comes about.
        """
        welcome, self._better = self._better, None
        if welcome is None:
            welcome = await self._any_way(tasks)
        began = anyio.current_time()
        ended: Ended | None = None
        try:
            ended = await self._live(tasks, welcome)
        finally:
            lived = anyio.current_time() - began
            self._down()
            code = 1000 if ended is None else ended.answer
            await welcome.transport.aclose(code, self.options.close_timeout)
        if self._better is None:
            lasted = lived >= (self.options.reconnect or Backoff()).stable
            self._course.ended(welcome.kind, lasted=lasted, broken=ended.code == _BROKEN)
        return ended, lived

    async def _any_way(self, tasks: anyio.abc.TaskGroup) -> Welcome:
        """A connection over the first transport that lets one through. Raises ConnectError."""
        first: ConnectError | None = None
        for kind in self._course.order():
            try:
                welcome = await establish(tasks, self.options, self.token, kind, self.rooms)
            except ConnectError as error:
                first = first or error
                if not self._course.blocked(error):
                    raise
            else:
                if first is not None:
                    where = self.options.address.authority
                    log.warning("gateway at %s: %s; using %s instead", where, first, kind)
                self._course.works(kind)
                return welcome
        assert first is not None
        raise first

    async def _live(self, outer: anyio.abc.TaskGroup, welcome: Welcome) -> Ended:
        options = self.options
        info, now = welcome.info, welcome.now
        link = Link(
            welcome.transport,
            welcome.codec,
            Handlers(self._receive, self._inbox.put),
            heartbeat=options.heartbeat,
            heartbeat_timeout=options.heartbeat_timeout,
            max_payload=info.limits.message_bytes,
        )
        self.rooms.greeted(info.positions)
        self.transport = welcome.kind
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._bring_up, link, info)
            if self.degraded:
                tasks.start_soon(self._improve, outer, link)
            if callable(self.token) and now is not None:
                self._renewal = Renewal(now, info.expires)
                tasks.start_soon(self._renewal.run, self.token, self.refresh, options.connect_timeout)
            ended = await link.run()
            tasks.cancel_scope.cancel()
        return ended

    @property
    def degraded(self) -> bool:
        """The connection runs over something less than the best that is allowed."""
        return self._course.degraded(self.transport)

    async def _improve(self, tasks: anyio.abc.TaskGroup, link: Link) -> None:
        """Try to return to the best transport from time to time; when it works, end ``link`` for it."""
        while True:
            await anyio.sleep(self._course.wait())
            try:
                better = await establish(tasks, self.options, self.token, self._course.best, self.rooms)
            except ConnectError:
                continue
            try:
                link.drain()  # new commands wait for the next connection
                with anyio.move_on_after(self.options.command_timeout):
                    await link.idle()
                self._better = better
            finally:
                if self._better is None:
                    await better.transport.aclose(1000, self.options.close_timeout)
            self._course.works(better.kind)
            link.end(Ended.broken("a better transport works"))
            return

    async def _bring_up(self, link: Link, info: ConnectionInfo) -> None:
        policy = self.options.reconnect or Backoff()
        resume = None if self.info is None else self.info.resume
        await Restorer(
            link, self.rooms, self.filter, policy, self.options.command_timeout, self._inbox.put, resume
        ).run()
        if link.ended is None:
            self.info = info
            self._link = link
            self._change(State.CONNECTED)

    def _down(self) -> None:
        self.rooms.disconnected()
        self._renewal = None
        if self._link is not None:
            self._link = None
            self._change(State.RECONNECTING)

    def _change(self, state: State) -> None:
        if self.state != State.CLOSED:
            self.state = state
        self._changed.set()
        self._changed = anyio.Event()

    def fail(self, error: ClientError) -> None:
        """From now on every command raises ``error``; the iteration does so after what was received."""
        if self.failure is None:
            self.failure = error
        self._link = None
        self._change(State.CLOSED)

    def finish(self) -> None:
        """Nothing will be received any more."""
        self._inbox.close()

    async def started(self) -> None:
        """Wait for the first connection. Raises :attr:`failure`."""
        await self._usable_link()

    # ---- events ------------------------------------------------------------------------------------------

    async def _receive(self, envelope: Envelope) -> None:
        for event in self.rooms.check(envelope):
            await self._inbox.put(event)
        self.rooms.seen(envelope)

    async def next_event(self) -> Event | None:
        """Wait for the next one; None after the client's block was left. Raises :attr:`failure`."""
        try:
            return await self._inbox.get()
        except InboxClosed:
            if self.failure is None or isinstance(self.failure, ClientClosed):
                return None
            raise self.failure from self.failure.__cause__

    # ---- commands ----------------------------------------------------------------------------------------

    async def command(
        self,
        fields: dict[str, Any],
        on_reply: OnReply | None = None,
        *,
        repeat: bool = True,
        timeout: float | None = None,
    ) -> Envelope:
        """Carry out one command, waiting for a connection where there is none; returns the reply.

        ``repeat`` tells that doing it twice is the same as doing it once. Raises CommandFailed,
        :attr:`failure`, and ValueError for data that cannot be sent.
        """
        try:
            fields = {**fields, "data": check_value(fields.get("data"))}
        except ProtocolError as error:
            raise ValueError(error.message) from None
        if self._waiting >= self.options.max_pending:
            raise TooManyPending(f"{self._waiting} commands are waiting already")
        self._waiting += 1
        limit = self.options.command_timeout if timeout is None else timeout
        try:
            with anyio.move_on_after(limit):
                return await self._until_answered(fields, on_reply, repeat=repeat)
        finally:
            self._waiting -= 1
        raise CommandTimeout(f"{fields['t']}: no reply within {limit:g} s{self._hint()}")

    async def _until_answered(
        self, fields: dict[str, Any], on_reply: OnReply | None, *, repeat: bool
    ) -> Envelope:
        await anyio.lowlevel.checkpoint_if_cancelled()  # before anything is sent
        while True:
            link = await self._usable_link()
            command = link.command(fields, on_reply)
            if len(command.payload) > link.max_payload:
                # The gateway would close the connection over it.
                size = f"{len(command.payload)} bytes, the gateway takes {link.max_payload}"
                raise CommandError(ErrorCode.TOO_LARGE, f"{fields['t']}: {size}")
            if link.pending >= self.options.max_pending:
                raise TooManyPending(f"{link.pending} commands are without a reply")
            try:
                reply = await link.request(command)
            except LinkLost as lost:
                if lost.sent and not repeat:
                    raise CommandInterrupted(f"{fields['t']}: {lost}") from None
                continue
            if reply.t != "error":
                return reply
            error = command_error(reply)
            if error.code != ErrorCode.SHUTTING_DOWN:
                raise error
            link.drain()  # refused, so not done: the next connection will take it

    async def refresh(self, token: str) -> Refreshed:
        """Give the open connection another token."""

        def note(reply: Envelope) -> None:
            result = refreshed(reply)
            if not callable(self.token):
                self.token = token
            if self.info is not None:
                self.info = msgspec.structs.replace(self.info, expires=result.expires)
            if self._renewal is not None:
                self._renewal.renewed(result.expires)
            for room in result.left:
                self.rooms.leave(room)

        return refreshed(await self.command({"t": "refresh", "data": {"token": token}}, note))

    async def _usable_link(self) -> Link:
        while True:
            if self.failure is not None:
                raise self.failure from self.failure.__cause__
            if self._link is not None and self._link.usable:
                return self._link
            await self._changed.wait()

    def _hint(self) -> str:
        if self._link is None:
            return "; there is no connection"
        if self._link.paused:
            return "; nothing is read while the events that were received are not taken out of the client"
        return ""
