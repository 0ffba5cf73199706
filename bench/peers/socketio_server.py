"""python-socketio on uvicorn: WebSocket only, msgspec as its JSON module, emit() to a room.

With ``--redis`` several of them are one, by its AsyncRedisManager.

Handlers run in order (``async_handlers=False``), because its tasks would let events overtake each other.
"""

from __future__ import annotations

from typing import Any

import msgspec
import socketio
import uvicorn

from bench.peers.rooms import options


class Json:
    """msgspec behind the two functions that python-socketio asks of a JSON module."""

    @staticmethod
    def dumps(value: Any, **_: Any) -> str:
        return msgspec.json.encode(value).decode()

    @staticmethod
    def loads(text: str | bytes, **_: Any) -> Any:
        return msgspec.json.decode(text)


chosen = options()
server = socketio.AsyncServer(
    client_manager=socketio.AsyncRedisManager(chosen.redis) if chosen.redis else None,
    async_mode="asgi",
    transports=["websocket"],
    async_handlers=False,
    json=Json,
    cors_allowed_origins="*",
    logger=False,
    engineio_logger=False,
)


@server.event
async def join(sid: str, room: str) -> None:
    await server.enter_room(sid, room)
    await server.emit("joined", room, to=sid)


@server.event
async def publish(sid: str, message: dict[str, Any]) -> None:
    await server.emit(message["event"], message["data"], room=message["room"])


if __name__ == "__main__":
    uvicorn.run(
        socketio.ASGIApp(server),
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
