"""websockets on uvloop, with broadcast(): its performance page names both."""

from __future__ import annotations

import asyncio

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

from bench.peers.rooms import Options, Rooms, options

rooms: Rooms[ServerConnection] = Rooms()


async def member(connection: ServerConnection) -> None:
    try:
        async for message in connection:
            text, receivers = rooms.handle(connection, message)
            broadcast(receivers, text.decode())
    finally:
        rooms.forget(connection)


async def echo(connection: ServerConnection) -> None:
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        return


async def main(chosen: Options) -> None:
    handler = echo if chosen.echo else member
    async with serve(handler, chosen.host, chosen.port, compression=None, backlog=4096) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(main(options()))
