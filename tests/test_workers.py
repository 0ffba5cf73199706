"""``gateway serve --workers N``: one port, several processes, real ones over a real Redis."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from gateway.auth.tokens import Authenticator
from gateway.client import Backoff, Client, ConnectionClosed, Lost, connect
from gateway.config.settings import AuthSettings
from gateway.testing.settings import SECRET
from tests.processes import DEADLINE, Folder, Served, serving
from tests.redis_server import free_port, redis_server
from tests.upgrade import request_head

TOKENS = Authenticator(AuthSettings(secret=SECRET))
QUICK = Backoff(base=0.05, maximum=0.5, tries=100)


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Folder]:
    """A folder with a signing key and a Redis server."""
    async with redis_server(tmp_path / "redis") as redis:
        environ = {
            "GATEWAY_AUTH_SECRET": SECRET,
            "GATEWAY_BROKER": redis.url,
            "GATEWAY_NODE": "n",
            "GATEWAY_RETRY_AFTER": "0.1",
            "GATEWAY_SUPERVISOR_BACKOFF": "0.05",
            "GATEWAY_HISTORY_MESSAGES": "100000",
            "GATEWAY_HISTORY_BYTES": "100000000",
        }
        yield Folder(tmp_path, environ)


@contextlib.asynccontextmanager
async def two_workers(folder: Folder, **environ: str) -> AsyncIterator[Served]:
    async with serving(folder, "--workers", "2", **environ) as served:
        await until_logged(served, "all workers listen")
        yield served


def logged(served: Served, event: str) -> list[dict[str, Any]]:
    """The log lines of one kind so far."""
    lines = (json.loads(line) for line in served.lines if line.startswith("{"))
    return [line for line in lines if line["event"] == event]


async def until_logged(served: Served, event: str, count: int = 1) -> list[dict[str, Any]]:
    with trio.move_on_after(DEADLINE):
        while len(logged(served, event)) < count:  # noqa: ASYNC110 - another process writes it
            await trio.sleep(0.01)
    found = logged(served, event)
    assert len(found) >= count, served.lines
    return found


@contextlib.asynccontextmanager
async def clients_of_both(served: Served) -> AsyncIterator[dict[str, Client]]:
    """A client of each worker, by the worker's name: the kernel spreads connections by its dice."""
    token = TOKENS.issue(org="acme", roles=["service"]).token
    async with contextlib.AsyncExitStack() as stack:
        found: dict[str, Client] = {}
        for _ in range(100):
            client = await stack.enter_async_context(connect(served.url, token=token, reconnect=QUICK))
            found.setdefault(client.connection.node or "", client)
            if len(found) == 2:
                break
        yield found


async def each_worker_counts_for_itself(served: Served, limit: int) -> None:
    """A user may have ``limit`` connections at each worker, wherever the kernel's dice send them."""
    token = TOKENS.issue(org="acme", user="u").token
    head = request_head("/ws", headers=[("Authorization", f"Bearer {token}")])
    opened = refused = 0
    async with contextlib.AsyncExitStack() as stack:
        while refused < 40:  # in a row
            with trio.fail_after(DEADLINE):
                stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", served.port))
                await stream.send_all(head)
                answer = b""
                while b'"connected"' not in answer and (chunk := await stream.receive_some()):
                    answer += chunk
            if answer.startswith(b"HTTP/1.1 101"):
                opened += 1
                refused = 0
            else:
                refused += 1
                assert b'"code":402' in answer
        assert opened == 2 * limit


async def test_two_workers_are_one_gateway(folder: Folder) -> None:
    own_port = free_port(2)  # one for each worker
    environ = {"GATEWAY_OWN_PORT": str(own_port), "GATEWAY_LIMITS_CONNECTIONS_PER_USER": "3"}
    async with two_workers(folder, GATEWAY_DRAIN_DELAY="60", **environ) as served:
        await each_worker_counts_for_itself(served, 3)
        async with clients_of_both(served) as clients:
            assert set(clients) == {"n-1", "n-2"}
            one, two = clients.values()
            await one.join("r")
            await two.join("r")
            for seq in range(1, 6):
                await (one if seq % 2 else two).publish("r", "e", seq)
            for client in (one, two):
                with trio.fail_after(DEADLINE):
                    assert [(await anext(client)).seq for _ in range(5)] == [1, 2, 3, 4, 5]
            async with httpx.AsyncClient() as http:
                for number in range(2):
                    metrics = (await http.get(f"http://127.0.0.1:{own_port + number}/metrics")).text
                    assert "trireme_rooms 1.0" in metrics, "each worker answers for itself on its own port"

            (dying,) = [each for each in logged(served, "a worker listens") if each["node"] == "n-1"]
            os.kill(dying["pid"], signal.SIGKILL)
            (died,) = await until_logged(served, "worker died")
            assert (died["node"], died["exit_code"]) == ("n-1", -signal.SIGKILL)
            await until_logged(served, "a worker listens", 3)
            assert logged(served, "a worker listens")[-1]["node"] == "n-3", "no name is used twice"
            last = await two.publish("r", "e", 6)
            for client in (one, two):
                with trio.fail_after(DEADLINE):
                    event = await anext(client)
                    assert not isinstance(event, Lost) and event.seq == last.seq == 6

            served.process.send_signal(signal.SIGTERM)
            await until_logged(served, "shutting down", 2)
            served.process.send_signal(signal.SIGTERM)  # asked twice: they do not wait
            with trio.fail_after(DEADLINE):
                assert await served.process.wait() == 0


async def test_workers_that_keep_dying_are_given_up(folder: Folder) -> None:
    async with two_workers(folder, GATEWAY_SUPERVISOR_RESTARTS="1") as served:
        os.kill(logged(served, "a worker listens")[0]["pid"], signal.SIGKILL)
        await until_logged(served, "a worker listens", 3)
        os.kill(logged(served, "a worker listens")[2]["pid"], signal.SIGKILL)
        with trio.fail_after(DEADLINE):
            assert await served.process.wait() == 3
        await until_logged(served, "giving up: workers die too often")
        assert len(logged(served, "a worker listens")) == 3
        with pytest.raises(OSError):
            await trio.open_tcp_stream("127.0.0.1", served.port)


async def test_workers_that_die_at_once_are_given_up_whatever_the_window(folder: Folder) -> None:
    """Each listens, and dies; so many deaths as the settings allow would never come together."""
    environ = {"GATEWAY_SUPERVISOR_RESTARTS": "1000", "GATEWAY_SUPERVISOR_WINDOW": "0.01"}
    async with serving(folder, "--workers", "2", **environ) as served:
        killed = 0
        with trio.fail_after(DEADLINE):
            while served.process.poll() is None:
                for each in logged(served, "a worker listens")[killed:]:
                    killed += 1
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(each["pid"], signal.SIGKILL)
                await trio.sleep(0.01)
        assert served.process.returncode == 3
        await until_logged(served, "giving up: workers die at once")
        assert killed <= 6


async def test_workers_are_replaced_one_by_one(folder: Folder) -> None:
    """A client that publishes all the time and one that listens lose nothing, and nobody is refused."""
    async with two_workers(folder) as served, clients_of_both(served) as clients:
        publisher, listener = clients.values()
        await listener.join("r")
        got: list[int] = []
        done = False

        async def publish() -> None:
            number = 0
            while not done:
                await publisher.publish("r", "e", number)
                number += 1
            await publisher.publish("r", "last")

        async def listen() -> None:
            async for event in listener:
                assert not isinstance(event, Lost), event
                if event.event == "last":
                    return
                got.append(event.data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            nursery.start_soon(publish)
            served.process.send_signal(signal.SIGHUP)
            await until_logged(served, "all workers replaced")
            done = True
        assert len(got) > 50 and got == list(range(len(got)))
        nodes = [each["node"] for each in logged(served, "a worker listens")]
        assert (set(nodes[:2]), nodes[2:]) == ({"n-1", "n-2"}, ["n-3", "n-4"])
        assert logged(served, "worker died") == []
        assert {publisher.connection.node, listener.connection.node} <= {"n-3", "n-4"}
        served.process.send_signal(signal.SIGINT)
        with trio.fail_after(DEADLINE):
            assert await served.process.wait() == 0


async def test_a_reload_that_cannot_start_leaves_the_old_workers_serving(folder: Folder) -> None:
    module = folder.path / "extension_of_the_test.py"
    module.write_text("def setup(gateway): pass\n")
    environ = {"GATEWAY_EXTENSIONS": "extension_of_the_test", "PYTHONPATH": str(folder.path)}
    async with two_workers(folder, **environ) as served, clients_of_both(served) as clients:
        module.write_text("def setup(gateway:\n")
        served.process.send_signal(signal.SIGHUP)
        await until_logged(served, "no new worker could start; keeping the old ones")
        for client in clients.values():
            await client.join("r")
        assert served.process.returncode is None
        module.write_text("def setup(gateway): pass\n")
        served.process.send_signal(signal.SIGHUP)
        await until_logged(served, "all workers replaced")


async def test_a_worker_that_stands_still_is_replaced(folder: Folder) -> None:
    async with two_workers(folder, GATEWAY_SUPERVISOR_SILENCE="2") as served:
        os.kill(logged(served, "a worker listens")[0]["pid"], signal.SIGSTOP)
        await until_logged(served, "worker does not respond; replacing it")
        await until_logged(served, "a worker listens", 3)


async def test_a_worker_that_does_not_end_is_killed(folder: Folder) -> None:
    async with two_workers(folder, GATEWAY_DRAIN_TIMEOUT="0.1", GATEWAY_SHUTDOWN_TIMEOUT="0.1") as served:
        os.kill(logged(served, "a worker listens")[0]["pid"], signal.SIGSTOP)
        served.process.send_signal(signal.SIGTERM)
        with trio.fail_after(DEADLINE):
            assert await served.process.wait() == 1
        await until_logged(served, "killed workers that did not end in time")
        assert len(logged(served, "shutting down")) == 1


async def test_workers_do_not_outlive_their_supervisor(folder: Folder) -> None:
    async with two_workers(folder) as served:
        token = TOKENS.issue(org="acme").token
        async with connect(served.url, token=token, reconnect=False) as client:
            served.process.send_signal(signal.SIGKILL)
            with trio.fail_after(DEADLINE), pytest.raises(ConnectionClosed) as ended:
                await anext(client)
            assert ended.value.code == 1012, "it leaves in good order"
        with trio.move_on_after(DEADLINE) as scope:
            while True:
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", served.port)).aclose()
                except OSError:
                    break
        assert not scope.cancelled_caught


async def test_what_no_worker_can_use_ends_the_start(folder: Folder) -> None:
    (folder.path / "nothing.pem").write_text("")
    result = await folder.run(
        *("serve", "--port", "0", "--workers", "2"),
        GATEWAY_TLS_CERTIFICATE="nothing.pem",
        GATEWAY_TLS_KEY="nothing.pem",
    )
    assert result.code == 2
    assert "gateway: tls.certificate, tls.key: cannot be used" in result.err


async def test_a_port_that_is_taken_stops_the_start(folder: Folder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = await folder.run("serve", "--workers", "2", "--port", port)
    assert result.code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in result.err
