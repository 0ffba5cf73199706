"""Backends of calls that die at a step: ``python -m tests.kill.mortal_backends``.

They share one listening socket, so that what one of them does not take waits for the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from functools import partial
from typing import Any, Final

from tests.kill.lives import live_and_die

__all__ = ["BACKEND"]

BACKEND: Final = ("taken", "read", "answered in part")
"""Its steps; at ``none`` it answers, at ``silent`` it waits until the caller has gone."""


def serve(listener: socket.socket, output: int, said: dict[str, Any]) -> None:
    """One call for each connection."""
    step = said["step"]
    os.write(output, f"port {listener.getsockname()[1]} pid {os.getpid()}\n".encode())

    def die_at(reached: str) -> None:
        if reached == step:
            os.kill(os.getpid(), signal.SIGKILL)

    while True:
        peer, _ = listener.accept()
        with contextlib.suppress(OSError), peer:
            die_at("taken")
            data = b""
            while b"\r\n\r\n" not in data:
                data += peer.recv(65536)
            head, _, body = data.partition(b"\r\n\r\n")
            headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            while len(body) < int(headers[b"content-length"]):
                body += peer.recv(65536)
            id = headers[b"webhook-id"].decode()
            os.write(output, f"called {id}\n".encode())
            die_at("read")
            if step == "silent":
                peer.recv(1)
                os.write(output, f"left {id}\n".encode())
                continue
            text = json.dumps({"id": id}).encode()
            start = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\n"
            start += b"content-length: %d\r\n\r\n" % len(text)
            peer.sendall(start + text[: 3 if step == "answered in part" else None])
            die_at("answered in part")


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as listener:
        live_and_die(partial(serve, listener))
