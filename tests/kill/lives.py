"""Forks that die, one after the other: what ``mortal_gateways`` and ``mortal_backends`` share.

One life is one line of JSON on the input; on the output its process says ``port N pid P`` when it can be
used, and this one ``died SIGNAL``. Lives are forks, because a start of Python takes longer than a life; the
process that forks has no connection and no loop of its own.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["live_and_die"]


def live_and_die(begin: Callable[[int, dict[str, Any]], None]) -> None:
    """Have ``begin``, which must not return, be what each life does; it says things on the descriptor."""
    output = os.dup(1)
    os.dup2(2, 1)  # what is logged
    os.write(output, b"listens\n")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            begin(output, json.loads(line))
            os._exit(1)
        _, status = os.waitpid(child, 0)
        os.write(output, f"died {os.WTERMSIG(status) if os.WIFSIGNALED(status) else -1}\n".encode())
