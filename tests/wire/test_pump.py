"""What the pump promises its readers; that it reads at all is shown by everything else."""

from __future__ import annotations

import socket
from dataclasses import dataclass

import pytest

from gateway.wire.flusher import Flusher
from gateway.wire.pump import Pump
from gateway.wire.shares import Share


@dataclass
class Reader:
    share: Share
    armed: bool = False
    queued: bool = False

    def on_readable(self) -> None:
        """Nothing comes."""


def test_a_socket_that_cannot_be_watched_changes_nothing() -> None:
    flusher = Flusher()
    pump = Pump.create(flusher)
    assert pump is not None
    first, second = Reader(flusher.share), Reader(flusher.share)
    with socket.socket() as sock, socket.socket() as closed:
        closed.close()
        pump.arm(sock, first)
        with pytest.raises(FileExistsError):
            pump.arm(sock, second)
        with pytest.raises((OSError, ValueError)):
            pump.arm(closed, second)
        assert (len(pump), first.armed, second.armed) == (1, True, False)
        pump.disarm(closed, second)
        pump.disarm(sock, first)
        assert (len(pump), first.armed) == (0, False)
        pump.arm(sock, second)
        assert second.armed
        pump.disarm(sock, second)
