"""FastAPI on uvicorn, with uvloop and httptools: the connection manager of its WebSocket page."""

from __future__ import annotations

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from bench.peers.rooms import Rooms, options

app = FastAPI()
rooms: Rooms[WebSocket] = Rooms()


@app.websocket("/ws")
async def member(connection: WebSocket) -> None:
    await connection.accept()
    try:
        while True:
            text, receivers = rooms.handle(connection, await connection.receive_text())
            event = text.decode()
            for receiver in tuple(receivers):
                await receiver.send_text(event)
    except WebSocketDisconnect:
        rooms.forget(connection)


if __name__ == "__main__":
    chosen = options()
    uvicorn.run(
        app,
        host=chosen.host,
        port=chosen.port,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        backlog=4096,
        access_log=False,
        log_level="error",
    )
