"""Nodes that are killed: each creates, says what was acknowledged, delivers, says what was delivered.

``python -m tests.store.mortal ADDRESS LIVES SEED [approvals]`` lives and dies so often. One line each on the
output: ``committed MID`` and ``delivered MID``; of approvals ``committed NAME``, ``decided NAME CHOICE`` and
``delivered MID``. Lives are forks, because a start of Python takes longer than a life;
the process that forks has no connection and no loop of its own.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import random
import signal
import sys
import uuid

import msgspec
import trio

from gateway.config.settings import StoreSettings
from gateway.store import Store
from gateway.store.engine import make_engine, parse
from protocol.errors import ProtocolError

PRODUCERS = 5
LINES = 60
"""A life ends after fewer than so many."""


async def produce(store: Store, output: int) -> None:
    """Create and deliver without end; what was refused is repeated under the same ``mid``."""
    for number in itertools.count():
        mid = f"{uuid.uuid4()}-{number}"
        created = None
        while created is None:
            with contextlib.suppress(ProtocolError):
                created = await store.notifications.create(
                    "acme", ["alice"], type="info", title="t", message="m", mid=mid
                )
        os.write(output, f"committed {mid}\n".encode())
        await trio.lowlevel.checkpoint()
        for entry in created.entries:
            os.write(output, f"delivered {entry.mid}\n".encode())
        await trio.lowlevel.checkpoint()
        store.outbox.done([entry.id for entry in created.entries])


async def approve(store: Store, output: int) -> None:
    """Ask, decide and deliver without end; what was refused is repeated."""
    for number in itertools.count():
        name = f"{uuid.uuid4()}-{number}"
        choice = ("approve", "reject")[number % 2]
        for step in ("create", "decide"):
            found = None
            while found is None:
                with contextlib.suppress(ProtocolError):
                    found = (
                        await store.approvals.create(
                            "acme", title="t", choices=("approve", "reject"), users=["alice"], name=name
                        )
                        if step == "create"
                        else await store.approvals.decide("acme", name, user="alice", roles=(), choice=choice)
                    )
            said = f"committed {name}" if step == "create" else f"decided {name} {choice}"
            os.write(output, f"{said}\n".encode())
            await trio.lowlevel.checkpoint()
            for entry in found.entries:
                os.write(output, f"delivered {entry.mid}\n".encode())
            await trio.lowlevel.checkpoint()
            store.outbox.done([entry.id for entry in found.entries])


async def live(address: str, output: int) -> None:
    """Run until the end."""
    work = approve if "approvals" in sys.argv else produce
    settings = msgspec.structs.replace(StoreSettings(), lease=0.5)
    async with Store.open(address, settings) as store, trio.open_nursery() as nursery:
        for _ in range(PRODUCERS):
            nursery.start_soon(work, store, output)


def life(address: str, moment: int) -> bytes:
    """What one node says until it is killed, after so many lines."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        trio.run(live, address, writing)
        os._exit(1)
    os.close(writing)
    said = b""
    while said.count(b"\n") < moment:
        chunk = os.read(reading, 65536)
        if not chunk:
            break
        said += chunk
    os.kill(child, signal.SIGKILL)
    while chunk := os.read(reading, 65536):
        said += chunk
    os.close(reading)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        sys.exit("it died by itself")
    return said


def main(address: str, lives: int, seed: int) -> None:
    """Live and die."""
    make_engine(parse(address), StoreSettings()).dispose()  # or each life would import the driver
    gc.freeze()  # what is imported is shared with every life
    dice = random.Random(seed)
    for _ in range(lives):
        sys.stdout.buffer.write(life(address, dice.randrange(1, LINES)))
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
