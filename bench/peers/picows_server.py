"""picows on uvloop: its transports write at once, without a coroutine per message."""

from __future__ import annotations

import asyncio
import ssl

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from bench.peers.rooms import Options, Rooms, options

rooms: Rooms[WSTransport] = Rooms()


class Member(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
            return
        text, receivers = rooms.handle(transport, frame.get_payload_as_bytes())
        for receiver in receivers:
            receiver.send(WSMsgType.TEXT, text)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        rooms.forget(transport)


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())


async def main(chosen: Options) -> None:
    listener = Echo if chosen.echo else Member

    def accept(request: WSUpgradeRequest) -> WSListener:
        return listener()

    context = None
    if chosen.tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(chosen.tls)
    server = await ws_create_server(accept, chosen.host, chosen.port, ssl=context, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(main(options()))
