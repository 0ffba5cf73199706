"""The inner shapes of hypercorn that ``gateway/wire/http.py`` relies upon.

They are not documented. When this fails after an upgrade of hypercorn, read the adapter's
first text, compare it with the new ``trio/tcp_server.py`` and ``protocol/h11.py``, and mend both.
"""

from __future__ import annotations

import inspect
from importlib.metadata import version

import pytest
from hypercorn.config import Config
from hypercorn.events import Closed, RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.trio.worker_context import TrioSingleTask, WorkerContext


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_the_pinned_version_is_here() -> None:
    assert version("hypercorn").startswith("0.18.")


def test_the_server_of_one_stream() -> None:
    assert parameters(TCPServer.__init__) == ["self", "app", "config", "context", "state", "stream"]
    for name in ("run", "protocol_send", "_read_data", "_close", "_idle_timeout", "_initiate_server_close"):
        assert inspect.iscoroutinefunction(getattr(TCPServer, name)), name
    assert parameters(TCPServer.protocol_send) == ["self", "event"]
    assert isinstance(MAX_RECV, int)


async def test_the_server_keeps_what_the_adapter_reads() -> None:
    context = WorkerContext(None)
    server = TCPServer(None, Config(), context, {}, None)  # type: ignore[arg-type]
    assert isinstance(server.idle_task, TrioSingleTask)
    assert (server.context, server.stream) == (context, None)
    assert not context.terminated.is_set()
    await context.terminated.set()
    assert context.terminated.is_set()


def test_the_protocol() -> None:
    names = ["app", "config", "context", "task_group", "connection_state"]
    names += ["ssl", "client", "server", "send"]
    assert parameters(H11Protocol.__init__) == ["self", *names]
    # The wrapper that TCPServer makes is asked for these, to make the protocol anew.
    wrapper = parameters(ProtocolWrapper.__init__)
    assert wrapper == ["self", *names[:4], "state", *names[5:], "alpn_protocol"]
    source = inspect.getsource(ProtocolWrapper.__init__)
    for name in wrapper[1:-1]:
        assert f"self.{name} = {name}" in source
    for name in (
        "_create_stream",
        "_check_protocol",
        "_maybe_recycle",
        "_close_stream",
        "stream_send",
        "_send_error_response",
    ):
        assert inspect.iscoroutinefunction(getattr(H11Protocol, name)), name
    assert parameters(H11Protocol._create_stream) == ["self", "request"]
    assert parameters(H11Protocol._send_error_response) == ["self", "status_code"]


def test_the_events() -> None:
    assert RawData(b"x").data == b"x"
    assert Updated(idle=True).idle is True
    Closed()


def test_the_lifespan() -> None:
    assert parameters(Lifespan.__init__) == ["self", "app", "config", "state"]
    for name in ("handle_lifespan", "wait_for_startup", "wait_for_shutdown"):
        assert inspect.iscoroutinefunction(getattr(Lifespan, name))


@pytest.mark.parametrize(
    "name",
    [
        "accesslog",
        "errorlog",
        "include_server_header",
        "keep_alive_timeout",
        "h11_max_incomplete_size",
        "max_app_queue_size",
    ],
)
def test_the_configuration(name: str) -> None:
    assert hasattr(Config(), name)  # a misspelt one would be set and never read
