"""The servers that can be measured: how each is started, and how it is spoken to."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import build, redis
from bench.dialect import (
    CBOR_DATA,
    CBOR_MARK,
    JSON_DATA,
    JSON_EVENT,
    JSON_MARK,
    Dialect,
    cbor_map,
    cbor_text,
)  # fmt: skip
from bench.server import Command


@dataclass(frozen=True)
class Setting:
    """What a subject may need to start: its port, a folder of its own, the key that signs tokens."""

    port: int
    folder: Path
    secret: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class Subject:
    """One server under test; ``missing`` says why it cannot run here, or returns None."""

    name: str
    title: str
    command: Callable[[Setting], Command]
    dialect: Dialect
    missing: Callable[[], str | None] = lambda: None
    front: Callable[[Setting], Command] | None = None
    """What stands in front of it; its own port is then the option ``behind``."""


def module(name: str, *arguments: str) -> Callable[[Setting], Command]:
    """A Python module that takes ``--port``, in this interpreter."""
    path = str(build.HERE.parent)

    def command(setting: Setting) -> Command:
        return Command(
            (sys.executable, "-m", name, "--port", str(setting.port), *arguments), {"PYTHONPATH": path}
        )

    return command


# Ours. Everything that a user has by default is on: tokens, rooms, filters, order, history, accounting.


_ONE_MACHINE = (
    "[limits]\nconnections_per_ip = 0\nconnections_per_user = 0\nhead_timeout = 60\n"
    "[rates]\nconnections_per_ip = 0\nconnections_per_user = 0\n"
)
"""The load comes from one address, as few users."""


def _gateway(setting: Setting) -> Command:
    configuration = setting.folder / "gateway.toml"
    configuration.write_text(
        f'[log]\nlevel = "warning"\n[connection]\nheartbeat = {setting.options.get("heartbeat", "30")}\n'
        + f"resume_ttl = {setting.options.get('resume_ttl', '300')}\n"
        + ("" if setting.options.get("limits") else _ONE_MACHINE)
        + setting.options.get("more", "")
    )
    program = str(Path(sys.executable).parent / "gateway")
    arguments = (
        program, "serve", "--host", "127.0.0.1", "--port", str(setting.port), "--config", str(configuration),
        "--broker", setting.options.get("redis", "memory"),
        "--database", f"sqlite:///{setting.folder / 'gateway.db'}",
    )  # fmt: skip
    return Command(arguments, {"GATEWAY_AUTH_SECRET": setting.secret, **_secured(setting)})


def certificate(folder: Path) -> Path:
    """A file with a new key (P-256) and its certificate."""
    import trustme

    path = folder / "node.pem"
    if not path.exists():
        trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


def _secured(setting: Setting) -> dict[str, str]:
    if "tls" not in setting.options:
        return {}
    pem = str(certificate(setting.folder))
    return {"GATEWAY_TLS_CERTIFICATE": pem, "GATEWAY_TLS_KEY": pem}


def _headers(subprotocol: str) -> tuple[str, ...]:
    return (f"Sec-WebSocket-Protocol: {subprotocol}", "Authorization: Bearer %t")


OURS_JSON = Dialect(
    headers=_headers("trireme.v1.json"),
    opening=(("expect", b'"t":"connected"'),),
    join=b'{"v":1,"t":"join","id":%n,"room":"bench-%r"}',
    joined=b'"t":"reply"',
    publish=f'{{"v":1,"t":"publish","id":%n,"room":"bench-%r","event":"tick","data":{JSON_DATA}}}'.encode(),
    event=JSON_MARK,
    answer=b'"id":',
    lost=b'"t":"lost"',
    refusals=(b'"t":"error"', b'"t":"closing"'),
)


def _cbor_start(kind: int) -> bytes:
    """The server writes version and kind first: ``v`` (0) = 1, ``t`` (1) = the kind's number."""
    return bytes((0x00, 0x01, 0x01, kind))


OURS_CBOR = Dialect(
    binary=True,
    headers=_headers("trireme.v1.cbor"),
    opening=(("expect", _cbor_start(17)),),
    join=cbor_map((0, b"\x01"), (1, b"\x03"), (2, b"%n"), (3, cbor_text("bench-%r"))),
    joined=_cbor_start(18),
    publish=cbor_map(
        (0, b"\x01"),
        (1, b"\x07"),
        (2, b"%n"),
        (3, cbor_text("bench-%r")),
        (4, cbor_text("tick")),
        (5, CBOR_DATA),
    ),
    event=CBOR_MARK,
    answer=_cbor_start(18) + b"\x02",
    lost=_cbor_start(21),
    refusals=(_cbor_start(19), _cbor_start(23)),
)

# The peers of bench/peers.

PEER = Dialect(
    join=b'{"join":"bench-%r"}',
    joined=b'"joined"',
    publish=JSON_EVENT.encode(),
    event=JSON_MARK,
)

SOCKETIO = Dialect(
    path="/socket.io/?EIO=4&transport=websocket",
    opening=(("expect", b"0{"), ("send", b"40"), ("expect", b"40{")),
    join=b'42["join","bench-%r"]',
    joined=b'42["joined"',
    publish=f'42["publish",{JSON_EVENT}]'.encode(),
    event=JSON_MARK,
    ping=b"2",
    pong=b"3",
)

CENTRIFUGO = Dialect(
    path="/connection/websocket",
    opening=(("send", b'{"id":1,"connect":{"token":"%t"}}'), ("expect", b'"connect":{')),
    join=b'{"id":2,"subscribe":{"channel":"bench-%r"}}',
    joined=b'"subscribe":{',
    publish=f'{{"id":%n,"publish":{{"channel":"bench-%r","data":{JSON_DATA}}}}}'.encode(),
    event=JSON_MARK,
    answer=b'{"id":',
    refusals=(b'"error":{', b'"disconnect":{'),
    ping=b"{}",
    pong=b"{}",
)


def _limit(*arguments: str) -> Callable[[Setting], Command]:
    return lambda setting: Command((str(build.limit()), str(setting.port), *arguments))


def centrifugo_program() -> str | None:
    """Where Centrifugo is: on PATH, or where ``go install`` puts it."""
    folders = os.pathsep.join((os.environ.get("PATH", ""), str(Path.home() / "go" / "bin")))
    return shutil.which("centrifugo", path=folders)


def for_valkey(redis: str) -> str:
    """The same address for python-socketio, which chooses the client package by it: ``valkey``."""
    return redis.replace("redis://", "valkey://")


def _socketio(setting: Setting) -> Command:
    shared = ("--redis", for_valkey(setting.options["redis"])) if "redis" in setting.options else ()
    return module("bench.peers.socketio_server", *shared)(setting)


def _centrifugo(setting: Setting) -> Command:
    """One core, no history or presence; small reused buffers, as its documentation advises."""
    configuration: dict[str, Any] = {
        "http_server": {"address": "127.0.0.1", "port": setting.port},
        "log": {"level": "error"},
        "usage_stats": {"disabled": True},
        "client": {
            "token": {"hmac_secret_key": setting.secret},
            "allowed_origins": ["*"],
        },
        "websocket": {"use_write_buffer_pool": True, "read_buffer_size": 512, "write_buffer_size": 512},
        "channel": {
            "without_namespace": {"allow_subscribe_for_client": True, "allow_publish_for_client": True}
        },
    }
    if "redis" in setting.options:
        configuration["engine"] = {"type": "redis", "redis": {"address": [setting.options["redis"]]}}
        configuration["http_api"] = {"key": setting.secret}
    path = setting.folder / "centrifugo.json"
    path.write_text(json.dumps(configuration))
    return Command((centrifugo_program() or "centrifugo", "--config", str(path)), {"GOMAXPROCS": "1"})


def _no_centrifugo() -> str | None:
    if centrifugo_program():
        return None
    return (
        "centrifugo is neither on PATH nor in ~/go/bin "
        "(go install github.com/centrifugal/centrifugo/v6@latest)"
    )


_ALL = (
    Subject("ours", "Trireme, JSON", _gateway, OURS_JSON),
    Subject("ours-cbor", "Trireme, CBOR", _gateway, OURS_CBOR),
    Subject("limit", "C, one send() per event and subscriber", _limit(), PEER),
    Subject("limit-batch", "C, one send() per subscriber and read", _limit("batch"), PEER),
    Subject("picows", "picows on uvloop", module("bench.peers.picows_server"), PEER),
    Subject("websockets", "websockets on uvloop", module("bench.peers.websockets_server"), PEER),
    Subject("fastapi", "FastAPI on uvicorn", module("bench.peers.fastapi_server"), PEER),
    Subject("socketio", "python-socketio on uvicorn", _socketio, SOCKETIO),
    Subject("trio-websocket", "trio-websocket", module("bench.peers.trio_websocket_server"), PEER),
    Subject("centrifugo", "Centrifugo, GOMAXPROCS=1", _centrifugo, CENTRIFUGO, _no_centrifugo),
)
SUBJECTS = {subject.name: subject for subject in _ALL}


def through_redis(name: str) -> Subject:
    """One of these, where there is a Redis."""
    subject = SUBJECTS[name]
    return replace(subject, missing=lambda: redis.missing() or subject.missing())


ECHO = Dialect(publish=JSON_DATA.encode(), answer=JSON_MARK).with_pad(100 - len('{"number":123456,"pad":""}'))
"""Bare echoes: any message comes back as it was; 100 bytes."""
ECHOES = {
    subject.name: subject
    for subject in (
        Subject("ours", "bench.echo", module("bench.echo"), ECHO),
        Subject("picows", "picows echo", module("bench.peers.picows_server", "--echo"), ECHO),
        Subject(
            "websockets",
            "websockets echo on uvloop",
            module("bench.peers.websockets_server", "--echo"),
            ECHO,
        ),
        Subject(
            "trio-websocket",
            "trio-websocket echo",
            module("bench.peers.trio_websocket_server", "--echo"),
            ECHO,
        ),
    )
}
