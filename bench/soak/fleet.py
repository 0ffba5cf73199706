"""Two nodes over one Redis, one with TLS: started, killed and replaced."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import trio
import trustme

from bench import build
from bench.machine import BenchError, free_port
from bench.soak.plan import Plan
from bench.soak.route import Place, View

__all__ = ["Fleet", "Node"]

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
heartbeat = 60
resume_ttl = {resume_ttl}
[history]
messages = 64
age = 86400
user = {{ messages = 64 }}
[redis]
timeout = 30
patience = 15
tail = 64
window = 64
"""
"""What is kept has to be full soon, so that from then on nothing grows: these bounds are small.

Redis shares the machine with everything else; who refuses clients when it is late makes them come again."""


class Node:
    """A place with its process: one after the other serves there, under the same name and port."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.generation = 0
        """Of its process, counted from 1."""
        self.process: trio.Process | None = None

    @property
    def pid(self) -> int | None:
        """None while there is no process."""
        running = self.process is not None and self.process.poll() is None
        return self.process.pid if self.process is not None and running else None


class Fleet:
    """The nodes ``a`` (TLS, lives from the start to the end) and ``b`` (plain, is killed and replaced)."""

    def __init__(self, plan: Plan, folder: Path, redis: str) -> None:
        self.folder = folder
        places = [Place("a", free_port(), tls=True), Place("b", free_port(), tls=False)]
        self.nodes = [Node(place) for place in places]
        authority = trustme.CA()
        self.view = View(places, secrets.token_hex(32), authority.cert_pem.bytes().decode())
        certificate = authority.issue_cert("127.0.0.1")
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / "node.pem")
        base = _CONFIGURATION.format(redis=redis, resume_ttl=plan.resume_ttl)
        for place in places:
            own = f'port = {place.port}\nnode = "{place.name}"\n'
            both = f'[tls]\ncertificate = "{folder}/node.pem"\nkey = "{folder}/node.pem"\n'
            (folder / f"{place.name}.toml").write_text(own + base + (both if place.tls else ""))

    async def start(self, node: Node) -> None:
        """Start a process for ``node``; returns when it is ready. Raises BenchError when it is late."""
        node.generation += 1
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
        environment = {
            **inherited, "GATEWAY_AUTH_SECRET": self.view.secret, "PYTHONPATH": str(build.HERE.parent),
        }  # fmt: skip
        log = self.folder / f"{node.place.name}{node.generation}.log"
        with log.open("wb") as output:
            node.process = await trio.lowlevel.open_process(
                [
                    str(Path(sys.executable).with_name("gateway")),
                    *("serve", "--config", str(self.folder / f"{node.place.name}.toml")),
                ],
                env=environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        with trio.move_on_after(_PATIENCE):
            async with httpx.AsyncClient(verify=self.view.trust) as http:
                while node.pid is not None:
                    with contextlib.suppress(httpx.TransportError):
                        if (await http.get(f"{node.place.url}/readyz")).status_code == 200:
                            node.place.ready = True
                            return
                    await trio.sleep(0.1)
        raise BenchError(f"node {node.place.name} did not start:\n{log.read_text(errors='replace')[-2000:]}")

    async def end(self, node: Node, number: signal.Signals) -> None:
        """End its process by a signal; returns when it is gone."""
        assert node.process is not None
        node.place.ready = False
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
        for log in sorted(self.folder.glob("[ab]*.log")):
            found += [f"{log.stem}: {line}" for line in log.read_text(errors="replace").splitlines()]
        return found
