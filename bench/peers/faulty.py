"""A server with one fault, to see that the load generator notices it.

``--fault``: ``none``; ``drop`` one event for one member; send one ``twice``; send one ``late``, behind
the next; ``stop`` sending to one member; ``close`` one member's connection; ``refuse`` every upgrade.
"""

from __future__ import annotations

import argparse
import asyncio
from http import HTTPStatus

from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from bench.peers.rooms import Rooms

VICTIM, WHEN = 3, 50
"""The member that suffers, and the number of the event from which on."""
FAULTS = ("none", "drop", "twice", "late", "stop", "close", "refuse")


class FaultyServer:
    """Serves one room, with the fault."""

    def __init__(self, fault: str) -> None:
        self._fault = fault
        self._rooms: Rooms[ServerConnection] = Rooms()
        self._members: list[ServerConnection] = []
        self._events = 0
        self._held: list[str] = []

    def refuse(self, connection: ServerConnection, _: Request) -> Response | None:
        """Answer 503 when that is the fault."""
        if self._fault == "refuse":
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "no room\n")
        return None

    async def serve(self, connection: ServerConnection) -> None:
        """Handle one client."""
        async for message in connection:
            text, receivers = self._rooms.handle(connection, message)
            if receivers == {connection} and connection not in self._members:
                self._members.append(connection)
                await connection.send(text.decode())
                continue
            self._events += 1
            for place, member in enumerate(self._members):
                await self._send(member, text.decode(), suffers=place == VICTIM and self._events >= WHEN)

    async def _send(self, member: ServerConnection, event: str, *, suffers: bool) -> None:
        first = self._events == WHEN
        if not suffers or not (first or self._fault in {"stop", "late"}):
            await member.send(event)
        elif self._fault == "twice":
            await member.send(event)
            await member.send(event)
        elif self._fault == "late":
            self._held.append(event)
            if not first:
                while self._held:
                    await member.send(self._held.pop())
        elif self._fault == "close":
            await member.close(4001, "too slow")
        elif self._fault not in {"drop", "stop"}:
            await member.send(event)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--fault", choices=FAULTS, required=True)
    chosen = parser.parse_args()
    faulty = FaultyServer(chosen.fault)
    async with serve(
        faulty.serve, "127.0.0.1", chosen.port, compression=None, process_request=faulty.refuse
    ) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
