"""trio-websocket as it comes: a loop of send_message(), the obvious design on Trio."""

from __future__ import annotations

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from bench.peers.rooms import Options, Rooms, options

rooms: Rooms[WebSocketConnection] = Rooms()


async def member(request: WebSocketRequest) -> None:
    connection = await request.accept()
    try:
        while True:
            text, receivers = rooms.handle(connection, await connection.get_message())
            event = text.decode()
            for receiver in tuple(receivers):
                await receiver.send_message(event)
    except ConnectionClosed:
        rooms.forget(connection)


async def echo(request: WebSocketRequest) -> None:
    connection = await request.accept()
    try:
        while True:
            await connection.send_message(await connection.get_message())
    except ConnectionClosed:
        return


async def main(chosen: Options) -> None:
    await serve_websocket(
        echo if chosen.echo else member, chosen.host, chosen.port, None, message_queue_size=64
    )


if __name__ == "__main__":
    trio.run(main, options())
