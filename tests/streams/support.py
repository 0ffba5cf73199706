"""A reader of server-sent events that knows nothing but the standard, and polls and posts by httpx."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Protocol
from urllib.parse import urlencode

import httpx
import msgspec
import trio

from gateway.app import Gateway

DEADLINE = 10.0


class Source(Protocol):
    """Where bytes come from."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...


class Events:
    """One open stream, over a bare socket: nothing in between that might buffer."""

    def __init__(self, stream: Source, last_id: str = "") -> None:
        self.last_id = last_id
        """What ``EventSource`` would send as ``Last-Event-ID``."""
        self.comments = 0
        self.status = 0
        self.headers: dict[str, str] = {}
        self._stream = stream
        self._unread = b""

    async def begin(self) -> None:
        """Read the head of the answer."""
        self.status = int((await self._line()).split()[1])
        while line := await self._line():
            name, _, value = line.partition(": ")
            self.headers[name.lower()] = value

    async def _line(self) -> str:
        """The next whole line; raises EOFError at the end, also in the middle of one."""
        while b"\n" not in self._unread:
            with trio.fail_after(DEADLINE):
                try:
                    chunk = await self._stream.receive_some(65536)
                except trio.BrokenResourceError:
                    chunk = b""
            if not chunk:
                raise EOFError
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line.rstrip(b"\r").decode()

    async def next(self) -> dict[str, Any]:
        """The next message; raises EOFError at the end. A block that is cut is dropped."""
        data: list[str] = []
        mark: str | None = None
        while True:
            line = await self._line()
            if not line:
                if mark is not None:
                    self.last_id = mark
                if data:
                    found: dict[str, Any] = msgspec.json.decode("\n".join(data))
                    return found
                mark = None
            elif line.startswith(":"):
                self.comments += 1
            elif line.startswith("id:"):
                mark = line[3:].removeprefix(" ")
            else:
                assert line.startswith("data: "), line
                data.append(line[6:])

    async def of(self, kind: str) -> dict[str, Any]:
        """The next message of this kind."""
        while True:
            message = await self.next()
            if message["t"] == kind:
                return message

    async def rest(self) -> list[dict[str, Any]]:
        """All up to the end."""
        found = []
        with contextlib.suppress(EOFError):
            while True:
                found.append(await self.next())
        return found


class Caller:
    """One user's way to the gateway without a WebSocket; ``port`` is that of something in front of it."""

    def __init__(
        self, gateway: Gateway, user: str = "alice", org: str = "acme", port: int | None = None, **claims: Any
    ) -> None:
        self.gateway = gateway
        self.port = gateway.port if port is None else port
        self.token = gateway.auth.issue(org=org, user=user, **claims).token
        self.base = f"http://127.0.0.1:{self.port}/api/v1"
        self.headers = {"Authorization": f"Bearer {self.token}"}

    @contextlib.asynccontextmanager
    async def stream(self, last_id: str = "", **query: Any) -> AsyncIterator[Events]:
        headers = {"Host": "localhost", **self.headers, **({"Last-Event-ID": last_id} if last_id else {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        target = f"/api/v1/stream?{urlencode(query, doseq=True)}"
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            await stream.send_all(f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode())
            events = Events(stream, last_id)
            await events.begin()
            assert events.status == 200
            yield events

    async def get(self, path: str, headers: dict[str, str] | None = None, **query: Any) -> httpx.Response:
        async with httpx.AsyncClient(timeout=DEADLINE, verify=False) as client:
            wanted = self.headers if headers is None else headers
            return await client.get(self.base + path, params=query, headers=wanted)

    async def poll(self, **query: Any) -> tuple[list[dict[str, Any]], str]:
        response = await self.get("/poll", **query)
        assert response.status_code == 200, response.text
        whole = response.json()
        return whole["messages"], whole["cursor"]

    async def post(self, commands: Any) -> httpx.Response:
        async with httpx.AsyncClient(timeout=DEADLINE, verify=False) as client:
            return await client.post(f"{self.base}/commands", json=commands, headers=self.headers)

    async def ask(self, *commands: dict[str, Any]) -> list[dict[str, Any]]:
        response = await self.post(list(commands))
        assert response.status_code == 200, response.text
        found: list[dict[str, Any]] = response.json()["messages"]
        return found
