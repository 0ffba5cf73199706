"""Calls over a socket: typed handlers, many at a time, and backends."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import trio

from gateway import Caller, ErrorCode, Gateway, open_gateway
from gateway.config.settings import CallSettings
from gateway.testing.settings import make_settings
from tests.calls.test_backend import SECRET, Server, answer
from tests.docs.markdown import file_of, text_of
from tests.streams.support import Caller as Posting
from tests.support import DEADLINE, connected, running_gateway, until

PAGE = text_of("docs/calls.md")


@dataclass
class Pause:
    councilor: str
    minutes: int = 5


@contextlib.asynccontextmanager
async def calling(
    say: Callable[[int], bytes | None], **changes: Any
) -> AsyncIterator[tuple[Server, Gateway]]:
    """A backend, and a gateway that forwards ``order:*`` to it."""
    server = Server(say)
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            functools.partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1")
        )
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/calls"
        made = CallSettings(url=url, private=True, secret=SECRET, **changes)
        async with running_gateway(calls={"order:*": made}) as gateway:
            yield server, gateway
        nursery.cancel_scope.cancel()


async def test_a_command_has_typed_arguments_and_roles() -> None:
    async with open_gateway(make_settings()) as gateway:

        @gateway.command("pause", roles={"service"})
        async def pause(caller: Caller, data: Pause) -> dict[str, Any]:
            return {"by": caller.user, "org": caller.org, "at": caller.connection, "minutes": data.minutes}

        async with connected(gateway, roles=["service"]) as alice, connected(gateway, user="bob") as bob:
            reply = await alice.ask("call", event="pause", data={"councilor": "cicero"})
            here = (await alice.ask("info")).data["connection"]
            assert reply.data == {"by": "alice", "org": "acme", "at": here, "minutes": 5}
            wrong = await alice.ask("call", event="pause", data={"councilor": 1})
            assert wrong.code == ErrorCode.BAD_FIELD
            missing = await alice.ask("call", event="pause")
            assert (missing.code, missing.message) == (
                ErrorCode.MISSING_FIELD,
                "data.councilor: is missing",
            )
            refused = await bob.ask("call", event="pause", data={"councilor": "cicero"})
            assert refused.code == ErrorCode.FORBIDDEN
    assert gateway.finished.is_set()


def test_handlers_that_cannot_work_are_refused_at_once() -> None:
    gateway = Gateway(make_settings())
    with pytest.raises(TypeError, match="two parameters"):
        gateway.command("one")(lambda caller: None)  # type: ignore[arg-type, misc]

    class Local:
        pass

    async def unknown(caller: Caller, data: Local) -> None:
        pass

    with pytest.raises(TypeError, match="give arguments="):
        gateway.command("two")(unknown)


async def test_calls_are_bounded_in_number_and_end_with_their_caller() -> None:
    ended: list[str] = []
    async with running_gateway(limits={"pending_commands": 3}) as gateway:

        @gateway.command("never")
        async def never(caller: Caller, data: Any) -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.append(caller.connection)

        async with connected(gateway) as alice:
            for id in range(3):
                await alice.send("call", id=id, event="never")
            assert (await alice.ask("call", event="never")).code == ErrorCode.TOO_MANY_PENDING
            assert (await alice.ask("ping")).t == "pong"
            assert gateway.calls.active == 3
        await until(lambda: len(ended) == 3, "the end of the calls")
        await until(lambda: gateway.calls.active == 0)
        assert gateway.calls.held == 0


async def test_calls_under_way_are_bounded_in_bytes() -> None:
    async with running_gateway() as gateway:
        go_on = trio.Event()

        @gateway.command("wait")
        async def wait(caller: Caller, data: Any) -> None:
            await go_on.wait()

        async with connected(gateway) as alice, connected(gateway, org="other") as other:
            for id in range(18):  # a quarter of 64 MiB is 16 MiB, and each takes one
                await alice.send("call", id=id, event="wait", data="x" * 1_048_000)
            refused = [await alice.receive() for _ in range(3)]
            assert {each.code for each in refused} == {ErrorCode.OVERLOADED}
            await other.send("call", id=1, event="wait")
            assert (await other.ask("ping")).t == "pong"
            go_on.set()
            assert (await other.receive()).t == "reply"


async def test_a_backend_answers_and_refuses() -> None:
    says = [answer(200, b'{"ok":true}'), answer(409, b'{"detail":"sold out"}')]
    async with calling(lambda number: says[number - 1]) as (server, gateway), connected(gateway) as alice:
        assert (await alice.ask("call", event="order:pay", data={"id": 7})).data == {"ok": True}
        refused = await alice.ask("call", event="order:pay")
        assert (refused.code, refused.message) == (ErrorCode.CALL_REJECTED, "sold out")
        assert (await alice.ask("call", event="other")).code == ErrorCode.UNKNOWN_CALL
        headers, content = server.requests[0]
        body = json.loads(content)
        # The check that the documentation gives to backends.
        found: dict[str, Any] = {}
        exec(file_of("docs/calls.md", "backend.py"), found)
        assert found["read_call"](SECRET, headers, content) == body
        assert found["read_call"](SECRET, headers, content + b" ") is None
        assert (body["call"], body["data"], body["caller"]["user"]) == ("order:pay", {"id": 7}, "alice")


REDIRECT = (
    b"HTTP/1.1 302 Found\r\nlocation: /calls\r\ncontent-length: 9\r\n"
    b'content-type: application/json\r\n\r\n"no, here"'
)
ANSWERS: list[tuple[bytes | None, ErrorCode]] = [
    (answer(200, b"<html>sorry</html>", "text/html"), ErrorCode.INTERNAL),
    (answer(404, b"<html>sorry</html>", "text/html"), ErrorCode.CALL_REJECTED),
    (b'HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{"half":', ErrorCode.INTERNAL),
    (REDIRECT, ErrorCode.INTERNAL),
    (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 999\r\n\r\n", ErrorCode.INTERNAL),
    (answer(500, b'{"detail":"the password is 1234"}'), ErrorCode.INTERNAL),
    (None, ErrorCode.TIMEOUT),
]
"""What a backend may answer to a call, and what its client gets; None: nothing."""


async def test_whatever_a_backend_answers_the_client_gets_a_number() -> None:
    says = [said for said, _ in ANSWERS for _ in range(2)]
    async with (
        calling(lambda number: says[number - 1], timeout=0.5, breaker_failures=1000) as (server, gateway),
        connected(gateway) as alice,
    ):
        posting = Posting(gateway)
        command = {"v": 1, "t": "call", "id": 1, "event": "order:pay", "data": {"id": 7}}
        for said, code in ANSWERS:
            refused = await alice.ask("call", event="order:pay", data={"id": 7})
            assert (refused.t, refused.code) == ("error", code), said
            assert "password" not in str(refused) and "html" not in str(refused)
            (posted,) = await posting.ask(command)
            assert (posted["t"], posted["code"], posted["message"]) == ("error", code, refused.message)
            assert (await alice.ask("ping")).t == "pong"
        assert len(server.requests) == len(says), "one request for each call: none repeated, none redirected"
        assert gateway.calls.active == 0


async def test_a_call_ends_at_the_backend_when_its_caller_vanishes() -> None:
    async with calling(lambda number: None) as (server, gateway), trio.open_nursery() as nursery:
        async with connected(gateway) as alice:
            await alice.send("call", id=1, event="order:pay")
            await until(lambda: len(server.requests) == 1, "the backend has it")
            await trio.aclose_forcefully(alice.socket._stream)  # no Close, no goodbye
            await until(lambda: server.gone == 1, "the backend is left")
        token = gateway.auth.issue(org="acme", user="alice").token
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(timeout=DEADLINE) as http:
            command = {"v": 1, "t": "call", "id": 1, "event": "order:pay"}
            address = f"http://127.0.0.1:{gateway.port}/api/v1/commands"
            nursery.start_soon(lambda: http.post(address, json=command, headers=headers))
            await until(lambda: len(server.requests) == 2, "the backend has it")
            nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await until(lambda: server.gone == 2, "the backend is left")
            await until(lambda: gateway.calls.active == 0, "no call is left")


async def test_breakers_are_shown() -> None:
    failing = answer(500)
    async with (
        calling(lambda number: failing, breaker_failures=1) as (_, gateway),
        connected(gateway) as alice,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}") as http,
    ):
        assert (await http.get("/readyz")).json()["calls"] == {"order:*": "closed"}
        assert (await alice.ask("call", event="order:pay")).code == ErrorCode.INTERNAL
        assert (await alice.ask("call", event="order:pay")).code == ErrorCode.OVERLOADED
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()["calls"]) == (200, {"order:*": "open"})
        metrics = (await http.get("/metrics")).text
        for line in (
            'trireme_backend_breaker{calls="order:*",state="open"} 1.0',
            'trireme_backend_calls_total{calls="order:*",outcome="failed"} 1.0',
            'trireme_backend_calls_pending{calls="order:*"} 0.0',
            "trireme_calls_pending 0.0",
        ):
            assert line in metrics


def test_the_table_names_every_setting() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == list(CallSettings.__struct_fields__)
