"""How the feeders are started, by the subject that they publish to."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from bench import build
from bench.cluster import Feeder
from bench.server import Command
from bench.subjects import Setting, for_valkey


def _command(name: str, *arguments: str) -> Command:
    path = str(build.HERE.parent)
    return Command((sys.executable, "-m", f"bench.feeders.{name}", *arguments), {"PYTHONPATH": path})


def _gateway(setting: Setting) -> Command:
    return _command("gateway_feeder", "--redis", setting.options["redis"])


def _socketio(setting: Setting) -> Command:
    return _command("socketio_feeder", "--redis", for_valkey(setting.options["redis"]))


def _centrifugo(setting: Setting) -> Command:
    return _command("centrifugo_feeder", "--port", str(setting.port), "--key", setting.secret)


FEEDERS: Mapping[str, tuple[Feeder, bool]] = {
    "ours": (_gateway, False),
    "socketio": (_socketio, False),
    "centrifugo": (_centrifugo, True),
}
"""Subject → how to start its feeder, and whether that publishes through a second node."""
