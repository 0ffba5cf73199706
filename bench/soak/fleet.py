"""Two nodes over one Redis, one with TLS, and how clients find their way to them."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import trio
import trustme

from bench import build
from bench.machine import BenchError, free_port
from bench.soak.plan import Plan
from gateway.auth.tokens import Authenticator
from gateway.client.transport import Address
from gateway.config.settings import AuthSettings

__all__ = ["Fleet", "Node", "Route", "Wire"]

_PATIENCE = 60.0
"""Seconds that a node may take to start, or to end when it was asked to."""

_CONFIGURATION = """\
host = "127.0.0.1"
broker = "{redis}"
database = "none"
extensions = ["bench.soak.probe"]
[log]
level = "error"
[limits]
connections_per_ip = 0
connections_per_user = 0
queue_bytes = 65536
[rates]
connections_per_ip = 0
connections_per_user = 0
[connection]
resume_ttl = {resume_ttl}
[history]
messages = 64
age = 86400
user = {{ messages = 64 }}
[redis]
tail = 64
window = 64
"""
"""What is kept has to be full soon, so that from then on nothing grows: these bounds are small."""


class Node:
    """A place for a process: one after the other serves there, under the same name and port."""

    def __init__(self, name: str, *, tls: bool) -> None:
        self.name = name
        self.tls = tls
        self.port = free_port()
        self.generation = 0
        """Of its process, counted from 1."""
        self.ready = False
        self.process: trio.Process | None = None

    @property
    def url(self) -> str:
        """Where REST is."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """None while there is no process."""
        running = self.process is not None and self.process.poll() is None
        return self.process.pid if self.process is not None and running else None


class Wire(trio.abc.Stream):
    """The TCP connection of one client: it can break, and its client can stop to read."""

    def __init__(self, stream: trio.SocketStream, reading: trio.Event) -> None:
        self._stream = stream
        self.reading = reading
        """Nothing is read while this is not set."""

    def cut(self, *, reset: bool = False) -> None:
        """Break it, with a reset (RFC 9293, section 3.5.3) or an end."""
        self.reading.set()
        with contextlib.suppress(OSError):  # it may have been closed
            if reset:
                self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._stream.socket.shutdown(socket.SHUT_RDWR)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        await self.reading.wait()
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except trio.ClosedResourceError:
            raise trio.BrokenResourceError("cut") from None

    async def wait_send_all_might_not_block(self) -> None:
        try:
            await self._stream.wait_send_all_might_not_block()
        except trio.ClosedResourceError:
            raise trio.BrokenResourceError("cut") from None

    async def aclose(self) -> None:
        await self._stream.aclose()


class Fleet:
    """The nodes ``a`` (TLS, lives from the start to the end) and ``b`` (plain, is killed and replaced)."""

    def __init__(self, plan: Plan, folder: Path, redis: str) -> None:
        self.folder = folder
        self.secret = secrets.token_hex(32)
        self.auth = Authenticator(AuthSettings(secret=self.secret))
        self.nodes = [Node("a", tls=True), Node("b", tls=False)]
        authority = trustme.CA()
        self.trust = ssl.create_default_context()
        authority.configure_trust(self.trust)
        certificate = authority.issue_cert("127.0.0.1")
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / "node.pem")
        base = _CONFIGURATION.format(redis=redis, resume_ttl=plan.resume_ttl)
        for node in self.nodes:
            own = f'port = {node.port}\nnode = "{node.name}"\n'
            tls = f'[tls]\ncertificate = "{folder}/node.pem"\nkey = "{folder}/node.pem"\n' if node.tls else ""
            (folder / f"{node.name}.toml").write_text(own + base + tls)

    def token(self, org: str, user: str | None = None, *roles: str) -> str:
        """For the whole run."""
        return self.auth.issue(org=org, user=user, roles=list(roles), ttl=86400).token

    async def start(self, node: Node) -> None:
        """Start a process for ``node``; returns when it is ready. Raises BenchError when it is late."""
        node.generation += 1
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
        environment = {
            **inherited, "GATEWAY_AUTH_SECRET": self.secret, "PYTHONPATH": str(build.HERE.parent),
        }  # fmt: skip
        log = self.folder / f"{node.name}{node.generation}.log"
        with log.open("wb") as output:
            node.process = await trio.lowlevel.open_process(
                [
                    str(Path(sys.executable).with_name("gateway")),
                    *("serve", "--config", str(self.folder / f"{node.name}.toml")),
                ],
                env=environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        with trio.move_on_after(_PATIENCE):
            async with httpx.AsyncClient(verify=self.trust) as http:
                while node.pid is not None:
                    with contextlib.suppress(httpx.TransportError):
                        if (await http.get(f"{node.url}/readyz")).status_code == 200:
                            node.ready = True
                            return
                    await trio.sleep(0.1)
        raise BenchError(f"node {node.name} did not start:\n{log.read_text(errors='replace')[-2000:]}")

    async def end(self, node: Node, number: signal.Signals) -> None:
        """End its process by a signal; returns when it is gone."""
        assert node.process is not None
        node.ready = False
        node.process.send_signal(number)
        with trio.fail_after(_PATIENCE):
            await node.process.wait()

    def stop(self) -> None:
        """Whatever still runs is over."""
        for node in self.nodes:
            if node.process is not None and node.process.poll() is None:
                node.process.kill()

    def complaints(self) -> list[str]:
        """What the nodes logged as errors."""
        found = []
        for log in sorted(self.folder.glob("*.log")):
            found += [f"{log.stem}: {line}" for line in log.read_text(errors="replace").splitlines()]
        return found


class Route:
    """Brings one client to its own node, or while that is away to the other."""

    def __init__(self, fleet: Fleet, home: Node, *, buffer: int = 0) -> None:
        """``buffer``: bytes that the kernel takes before somebody reads; 0 is as usual."""
        self._fleet = fleet
        self._home = home
        self._buffer = buffer
        self.at: Node | None = None
        """Where it was brought last."""
        self.wire: Wire | None = None
        self.reading = trio.Event()
        self.reading.set()

    @property
    def away(self) -> bool:
        """It is not where it belongs, and could be."""
        return self.at is not self._home and self._home.ready

    def pick(self) -> Node:
        """A node that is ready; raises OSError when there is none."""
        for node in (self._home, *self._fleet.nodes):
            if node.ready:
                self.at = node
                return node
        raise OSError("no node is ready")

    async def dial(self, address: Address) -> trio.abc.Stream:
        """Open the byte stream below a WebSocket."""
        node = self.pick()
        sock = trio.socket.socket()
        if self._buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer)
        try:
            await sock.connect(("127.0.0.1", node.port))
        except BaseException:
            sock.close()
            raise
        self.reading.set()
        self.wire = Wire(trio.SocketStream(sock), self.reading)
        if not node.tls:
            return self.wire
        secure = trio.SSLStream(
            self.wire, self._fleet.trust, server_hostname="127.0.0.1", https_compatible=True
        )
        try:
            await secure.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(self.wire)
            raise
        return secure

    def http(self) -> RoutedHttp:
        """The same for requests."""
        return RoutedHttp(self.pick, lambda: httpx.AsyncHTTPTransport(verify=self._fleet.trust))


class RoutedHttp(httpx.AsyncBaseTransport):
    """Sends each request to the node that is chosen then."""

    def __init__(self, pick: Callable[[], Node], make: Callable[[], httpx.AsyncHTTPTransport]) -> None:
        self._pick = pick
        self._make = make
        self._used: httpx.AsyncHTTPTransport | None = None

    async def handle_async_request(self, request: httpx.Request) -> Any:
        try:
            node = self._pick()
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        request.url = request.url.copy_with(scheme="https" if node.tls else "http", port=node.port)
        if self._used is None:  # closed, and used again by the next connection
            self._used = self._make()
        return await self._used.handle_async_request(request)

    async def aclose(self) -> None:
        used, self._used = self._used, None
        if used is not None:
            await used.aclose()
