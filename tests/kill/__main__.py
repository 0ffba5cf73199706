"""A campaign of kills: ``python -m tests.kill [--rounds 1] [--only TEXT] [--database sqlite]``.

A round kills at every step of every scenario on each database. The exit code is 1 when one of them failed.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
import traceback
from pathlib import Path

import trio

from gateway.store import migrate
from tests.kill.scenarios import ALL
from tests.kill.site import opened
from tests.postgres import Postgres
from tests.redis_server import redis_server


async def campaign(address: str, folder: Path, only: str, rounds: int) -> tuple[int, list[str]]:
    """How many were killed, and which scenarios failed."""
    failed: list[str] = []
    kills = 0
    chosen = {name: run for name, run in ALL.items() if only in name}
    for _ in range(rounds):
        waiting = list(chosen.items())
        while waiting:  # after a failure with a new site
            async with (
                redis_server(folder / f"redis{len(failed)}") as redis,
                opened(address, redis.url) as site,
            ):
                while waiting:
                    name, run = waiting.pop(0)
                    try:
                        await run(site)
                    except Exception:
                        traceback.print_exc()
                        print(f"FAILED: {name}", flush=True)
                        failed.append(name)
                        break
                    finally:
                        print(f"{name}", flush=True)
                kills += site.kills
    return kills, failed


def main() -> int:
    """Run it on each database."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--database", choices=["sqlite", "postgresql"])
    chosen = parser.parse_args()
    wrong: list[str] = []
    for kind in [chosen.database] if chosen.database else ["sqlite", "postgresql"]:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            address = f"sqlite:///{folder / 'kill.db'}"
            if kind == "postgresql":
                server = Postgres()
                stack.callback(server.close)
                address = server.fresh()
            migrate(address)
            begun = time.monotonic()
            kills, failed = trio.run(campaign, address, folder, chosen.only, chosen.rounds)
            print(f"{kind}: {kills} kills in {time.monotonic() - begun:.0f} s, {len(failed)} failures")
            wrong += failed
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
