"""The command, nearly always run as a process of its own in an empty folder."""

from __future__ import annotations

import json
import logging
import re
import secrets
import signal
import socket
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
import structlog
import trio
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from gateway.cli.arguments import UserError, parse_rooms, parse_seconds
from gateway.cli.commands import run
from gateway.client import connect
from gateway.config.described import describe
from gateway.config.settings import Settings
from gateway.config.sources import load_settings
from gateway.testing.settings import SECRET
from tests.processes import DEADLINE, Folder, process, serving
from tests.test_workers import until_logged


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, {})


@pytest.fixture
def keyed(tmp_path: Path) -> Folder:
    """A folder whose environment holds a signing key."""
    return Folder(tmp_path, {"GATEWAY_AUTH_SECRET": SECRET})


@pytest.fixture
def plain_logs() -> Iterator[None]:
    """Undoes what a command that runs in this process does to the logs."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


async def test_a_token_says_what_was_asked(keyed: Folder) -> None:
    claims = await keyed.token(
        *("--org", "acme", "--user", "alice", "--role", "member", "--ttl", "1h30m"),
        *("--room", "chat:*=join,publish", "--room", "a=b=history", "--room", "chat:*=presence"),
    )
    assert (claims["org"], claims["sub"], claims["roles"]) == ("acme", "alice", ["member"])
    assert claims["rooms"] == {"chat:*": ["join", "publish", "presence"], "a=b": ["history"]}
    assert 5400 <= claims["exp"] - claims["iat"] <= 5401


async def test_a_token_needs_little(keyed: Folder) -> None:
    claims = await keyed.token("--org", "acme")
    assert set(claims) == {"org", "exp", "iat", "jti"}
    claims = await keyed.token("--org", "acme", "--role", "service", "--role", "admin")
    assert claims["roles"] == ["service", "admin"]


async def test_the_development_key_is_made_once_and_found_again(folder: Folder) -> None:
    assert "no signing key" in await folder.refused("token", "--org", "acme")
    assert not (folder.path / "data").exists()
    first = await folder.token("--dev", "--org", "acme")
    key = folder.path / "data" / "dev-secret"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    again = await folder.token("--org", "acme")  # without --dev, since the key is there
    assert first["jti"] != again["jti"]
    assert "no signing key" in await folder.refused("serve", "--port", "0")  # a gateway never does that


async def test_an_asymmetric_key_signs(folder: Folder) -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    (folder.path / "key.pem").write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    (folder.path / "gateway.toml").write_text("[auth]\nalgorithm = 'EdDSA'\nprivate_key_file = 'key.pem'")
    result = await folder.run("token", "--org", "acme")
    assert jwt.decode(result.out.strip(), private.public_key(), ["EdDSA"])["org"] == "acme"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("token", "--org"),
        ("token --org acme --ttl soon", "expected a duration such as 30s"),
        ("token --org acme --ttl 99d", "ttl must be from 1 to 2592000 seconds"),
        ("token --org acme --room chat", "write PATTERN=join"),
        ("token --org acme --room chat=dance", "'dance' is not a permission"),
        ("token --org acme --role boss", "Invalid value"),
        ("token --org acme --bogus", "--bogus"),
        ("bogus", "bogus"),
        ("serve --port x", "--port"),
        ("serve --port 70000", "flag --port: expected a whole number <= 65535"),
        ("serve --workers 2", "use --broker redis://"),
        ("serve --broker nats://me:hidden@h", "use memory, redis://"),
        ("serve --broker redis+sentinel://me:hidden@h", "the name of the service is missing"),
        ("serve --config none.toml", "none.toml does not exist"),
        ("publish --room r --event e", "--org or --token is missing"),
        ("publish --org acme --room r --event e --data {", "--data: is not valid JSON"),
        ("publish --org acme --room r --event e --url nonsense", "nonsense"),
        ("tail --org acme r --format xml", "--format"),
    ],
)
def test_wrong_commands_say_so_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    plain_logs: None,
    arguments: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATEWAY_AUTH_SECRET", SECRET)
    assert run(arguments.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("gateway: ") and words in line
    assert "hidden" not in line and SECRET not in line


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert run(list(arguments)) == 0
        return capsys.readouterr().out

    overview = said("--help")
    assert said() == overview
    for command, words in {
        "serve": ("--host", "--port", "--config", "--broker", "--database", "--workers", "--dev", "--reload"),
        "token": ("--org", "--user", "--role", "--room", "--ttl", "--inspect"),
        "publish": ("--room", "--event", "--data", "--url", "--token"),
        "tail": ("ROOMS", "--events", "--format"),
        "check": ("--config",),
        "config": ("init", "show"),
        "completion": ("SHELL",),
        "migrate": ("--to", "--database", "--config"),
    }.items():
        assert command in overview
        text = said(command, "--help")
        assert all(word in text for word in words), text
    assert said("--version").strip()[0].isdigit()


async def test_a_wrong_configuration_stops_the_start(keyed: Folder) -> None:
    (keyed.path / "gateway.toml").write_text("prot = 1")
    assert "gateway.toml: unknown key 'prot'" in await keyed.refused("serve", "--port", "0")
    (keyed.path / "gateway.toml").write_text("")
    line = await keyed.refused("serve", "--port", "0", GATEWAY_LIMITS_BATCH="0")
    assert "GATEWAY_LIMITS_BATCH" in line
    line = await keyed.refused("serve", "--port", "0", GATEWAY_AUTH_SECRET="short-secret")
    assert "too short" in line and "short-secret" not in line
    line = await keyed.refused("serve", "--port", "0", GATEWAY_AUTH_ALGORITHM="RS256", GATEWAY_AUTH_SECRET="")
    assert "auth.public_key_file" in line


async def test_a_port_that_is_taken_stops_the_start(keyed: Folder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = await keyed.run("serve", "--port", port)
    assert result.code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in result.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_serving_ends_with_a_signal(keyed: Folder, number: signal.Signals) -> None:
    async with serving(keyed) as served:
        served.process.send_signal(number)
        with trio.fail_after(DEADLINE):
            assert await served.process.wait() == 0
    assert all(SECRET not in line for line in served.lines)


async def test_an_event_goes_out_and_is_followed(folder: Folder) -> None:
    """Publishers and followers sign with the development key of the folder, unasked."""
    async with serving(folder, "--dev") as served:
        follow = ("tail", "--org", "acme", "chat:42", "--url", served.url, "--events", "message:*")
        async with (
            process(
                folder, *follow, "--format", "json", stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ) as tail,
            process(folder, *follow, stdout=subprocess.PIPE) as pretty,
        ):
            publish = ("publish", "--org", "acme", "--room", "chat:42", "--url", served.url)
            await _joined(folder, served.url, members=2)
            assert (await folder.run(*publish, "--event", "typing:start")).code == 0
            sent = await folder.run(*publish, "--event", "message:new", "--data", '{"text":"hi\\u009b"}')
            reply = json.loads(sent.out)
            assert (sent.code, sent.err) == (0, "")
            assert (reply["room"], reply["seq"]) == ("chat:42", 2)
            event = json.loads(await _line(tail))
            assert (event["room"], event["event"], event["seq"]) == ("chat:42", "message:new", 2)
            assert (event["data"], event["mid"]) == ({"text": "hi\u009b"}, reply["mid"])
            text = await _line(pretty)
            assert 'chat:42 #2  message:new  {"text":"hi\\u009b"}' in text
            place = await folder.run(*publish, "--event", "message:new", "--format", "pretty")
            assert place.out.startswith("chat:42 #3 ")
            for running, number in ((tail, signal.SIGINT), (pretty, signal.SIGTERM)):
                running.send_signal(number)
                with trio.fail_after(DEADLINE):
                    assert await running.wait() == 0
            assert tail.stderr is not None
            assert await tail.stderr.receive_some() == b"following chat:42; Ctrl-C to stop\n"
            assert await tail.stderr.receive_some() == b""


async def test_following_into_a_closed_pipe_ends_quietly(folder: Folder) -> None:
    async with serving(folder, "--dev") as served:
        follow = ("tail", "--org", "acme", "chat:42", "--url", served.url)
        async with process(folder, *follow, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as tail:
            await _joined(folder, served.url, members=1)
            assert tail.stdout is not None and tail.stderr is not None
            await tail.stdout.aclose()
            publish = ("publish", "--org", "acme", "--room", "chat:42", "--url", served.url)
            assert (await folder.run(*publish, "--event", "message:new")).code == 0
            with trio.fail_after(DEADLINE):
                assert await tail.wait() == 0
                assert await tail.stderr.receive_some() == b"following chat:42; Ctrl-C to stop\n"
                assert await tail.stderr.receive_some() == b""


async def test_what_the_gateway_refuses_is_one_line(keyed: Folder) -> None:
    async with serving(keyed) as served:
        publish = ("publish", "--room", "chat", "--event", "message:new", "--url", served.url)
        line = await keyed.refused(*publish, "--token", "not.a.token", code=1)
        assert "HTTP 401" in line and "not.a.token" not in line
        (token,) = (await keyed.run("token", "--org", "acme", "--room", "chat=join")).out.splitlines()
        assert "202" in await keyed.refused(*publish, "--token", token, code=1)
        line = await keyed.refused("tail", "chat:*", "--org", "acme", "--url", served.url, code=1)
        assert "must not contain *" in line
    for command in (publish, ("tail", "--url", served.url + "?token=hidden")):
        line = await keyed.refused(*command, "--org", "acme", code=1)
        assert f"ws://127.0.0.1:{served.port}/ws" in line and "hidden" not in line


async def _line(running: trio.Process) -> str:
    assert running.stdout is not None
    buffer = b""
    with trio.fail_after(DEADLINE):
        while not buffer.endswith(b"\n"):
            part = await running.stdout.receive_some()
            assert part, "the command ended"
            buffer += part
    return buffer.decode()


async def _joined(folder: Folder, url: str, *, members: int) -> None:
    """Wait until so many connections are in the room chat:42."""
    (token,) = (await folder.run("token", "--org", "acme", "--role", "service")).out.splitlines()
    with trio.fail_after(DEADLINE):
        async with connect(url, token=token) as client:
            while True:
                if (await client.presence("chat:42")).connections >= members:
                    return
                await trio.sleep(0.02)


async def test_check_finds_everything_in_order(keyed: Folder) -> None:
    result = await keyed.run("check", GATEWAY_AUTH_SECRET=secrets.token_urlsafe(32))
    assert (result.code, result.err) == (0, "")
    parts = [line.split(": ")[:2] for line in result.out.splitlines()]
    assert parts == [[part, "ok"] for part in ("configuration", "access", "keys", "broker", "database")]


async def test_check_names_the_part_that_fails(folder: Folder) -> None:
    (folder.path / "file").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        cases = {
            "configuration": {"GATEWAY_PORT": "x"},
            "keys": {"GATEWAY_AUTH_SECRET": "short"},
            "broker": {
                "GATEWAY_BROKER": f"redis://me:hidden@127.0.0.1:{port}",
                "GATEWAY_REDIS_TIMEOUT": "0.5",
            },
            "database": {"GATEWAY_DATABASE": "sqlite:///file/gateway.db"},
            "tls": {"GATEWAY_TLS_KEY": "file", "GATEWAY_TLS_CERTIFICATE": "file"},
        }
        for part, environ in cases.items():
            result = await folder.run("check", **{"GATEWAY_AUTH_SECRET": SECRET, **environ})
            assert (result.code, result.err) == (1, "")
            failed = [line for line in result.out.splitlines() if ": FAILED: " in line]
            assert [line.partition(":")[0] for line in failed] == [part]
            assert "hidden" not in result.out and SECRET not in result.out
    jwks = f"http://me:hidden@127.0.0.1:{port}"
    result = await folder.run(
        "check",
        GATEWAY_BROKER=f"redis://me:hidden@127.0.0.1:{port}",
        GATEWAY_REDIS_TIMEOUT="0.5",
        GATEWAY_DATABASE=f"postgresql+psycopg://me:hidden@127.0.0.1:{port}/d",
        GATEWAY_AUTH_ALGORITHM="RS256",
        GATEWAY_AUTH_JWKS_URL=jwks,
    )
    assert result.code == 1 and "hidden" not in result.out
    assert [line.split(": ")[:2] for line in result.out.splitlines()] == [
        ["configuration", "ok"],
        ["access", "ok"],
        ["keys", "FAILED"],
        ["broker", "FAILED"],
        ["database", "FAILED"],
    ]


async def test_check_warns_of_what_can_be_used_and_should_not_stay(folder: Folder) -> None:
    config = folder.path / "gateway.toml"
    config.write_text(
        f"allowed_origins = ['wss://a.example', 'https://a.example']\n[auth]\nsecret = '{'ab' * 20}'\n"
    )
    config.chmod(0o644)
    result = await folder.run("check")
    warnings = [line for line in result.out.splitlines() if ": warning: " in line]
    assert (result.code, len(warnings)) == (0, 3), result.out
    assert "gateway.toml can be read by other users" in warnings[0]
    assert "wss://a.example never matches" in warnings[1] and "write https://a.example" in warnings[1]
    assert "auth.secret is weak: it has only 2 different characters" in warnings[2]
    config.chmod(0o600)
    result = await folder.run("check", GATEWAY_ALLOWED_ORIGINS="", GATEWAY_AUTH_SECRET=secrets.token_hex(32))
    assert result.code == 0 and "warning" not in result.out


async def test_a_token_is_inspected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], plain_logs: None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATEWAY_AUTH_SECRET", SECRET)

    def said(*arguments: str) -> tuple[int, str]:
        return run(list(arguments)), capsys.readouterr().out

    text = await trio.to_thread.run_sync(said, "token", "--org", "acme", "--user", "alice")
    code, shown = await trio.to_thread.run_sync(said, "token", "--inspect", text[1].strip())
    found = json.loads(shown)
    assert (code, found["verdict"], found["header"]["alg"]) == (0, "valid", "HS256")
    assert found["claims"]["sub"] == "alice" and 3590 < found["expires_in"] <= 3601
    foreign = jwt.encode({"org": "acme"}, "another key of 32 bytes or more, see", "HS256")
    code, shown = await trio.to_thread.run_sync(said, "token", "--inspect", foreign)
    assert code == 1 and json.loads(shown)["verdict"].startswith("refused with 200: ")
    monkeypatch.delenv("GATEWAY_AUTH_SECRET")
    code, shown = await trio.to_thread.run_sync(said, "token", "--inspect", foreign)
    assert code == 1 and json.loads(shown)["verdict"].startswith("not verified: no signing key")
    assert (await trio.to_thread.run_sync(said, "token", "--inspect", "nonsense")) == (2, "")


async def test_a_configuration_file_is_written_and_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], plain_logs: None
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["config", "init"]) == 0
    file = tmp_path / "gateway.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_settings(None, {}, {}) == Settings()
    lines = file.read_text().splitlines()
    # Every setting uncommented: what the file calls a default is one.
    file.write_text("\n".join(line[1:] if re.match(r"#\w+ = ", line) else line for line in lines))
    assert load_settings(None, {}, {}) == Settings()
    assert len(re.findall(r"^#\w+ = ", "\n".join(lines), re.MULTILINE)) == len(describe())
    assert run(["config", "init"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_settings_in_force_are_shown_with_their_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gateway.toml").write_text(
        f"port = 1\nnode = 'n'\n[auth]\nsecret = '{SECRET}'\n"
        "[calls.'a*']\nurl = 'http://b/'\nsecret = 'c2VjcmV0'\n"
    )
    monkeypatch.setenv("GATEWAY_PORT", "2")
    monkeypatch.setenv("GATEWAY_BROKER", "redis://:hidden@h")
    assert run(["config", "show", "--changed", "--dev"]) == 0
    shown = capsys.readouterr().out
    assert SECRET not in shown and "hidden" not in shown and "c2VjcmV0" not in shown
    found = dict(re.findall(r"^(\w+) = .*  # (.*)$", shown, re.MULTILINE))
    assert (found["port"], found["node"], found["secret"]) == ("GATEWAY_PORT", "gateway.toml", "gateway.toml")
    assert (found["dev"], found["connections_per_user"]) == ("--dev", "development mode")
    assert "heartbeat" not in shown
    assert run(["config", "show"]) == 0
    every = tomllib.loads(capsys.readouterr().out)
    assert every["connection"]["heartbeat"] == 30.0 and every["port"] == 2


async def test_a_changed_file_starts_the_gateway_again(keyed: Folder) -> None:
    assert "--reload is for development" in await keyed.refused("serve", "--reload")
    async with serving(keyed, "--dev", "--reload", GATEWAY_NODE="first") as served:
        (keyed.path / "gateway.toml").write_text("database = 'none'\n")
        await until_logged(served, "listening", 2)
        assert any("gateway.toml" in line for line in served.lines)
        served.process.send_signal(signal.SIGTERM)
        with trio.fail_after(DEADLINE):
            assert await served.process.wait() == 0


def test_shells_complete_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert run(["completion", shell]) == 0
        assert "--inspect" in capsys.readouterr().out


async def test_check_reads_the_certificate(keyed: Folder) -> None:
    certificate = trustme.CA().issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(keyed.path / "both.pem")
    result = await keyed.run("check", GATEWAY_TLS_KEY="both.pem", GATEWAY_TLS_CERTIFICATE="both.pem")
    assert result.code == 0 and "tls: ok" in result.out


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("15m", 900),
        ("1h", 3600),
        ("7d", 604800),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("90", 90),
        ("0s", 0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_seconds("--ttl", text) == seconds


@pytest.mark.parametrize(
    "text", ["", "h", "1x", "1w", "-1h", "1 h", "1h 30m", "1e3s", "inf", "nan", "٣s", "1h;"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UserError, match="--ttl"):
        parse_seconds("--ttl", text)


def test_room_arguments() -> None:
    assert parse_rooms([]) is None
    assert parse_rooms(["a=join", "b=join, history"]) == {"a": ["join"], "b": ["join", "history"]}
    for text in ("a", "=join", "a=", "a=,", "a=join,fly"):
        with pytest.raises(UserError, match="--room"):
            parse_rooms([text])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["token"], "gateway: --org is missing; see gateway token --help\n"),
        (["publish", "--room", "r"], "gateway: --event is missing; see gateway publish --help\n"),
        (["token", "--org"], 'gateway: Command "token" parameter --org requires an argument.\n'),
    ],
)
def test_what_is_missing_is_named(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert capsys.readouterr().err == expected


async def test_a_token_is_made_without_the_event_loop_the_http_client_and_the_logger(folder: Folder) -> None:
    program = (
        "import sys; from gateway.cli.commands import run; run(['token', '--org', 'acme', '--dev']);"
        " print(*({'trio', 'httpx', 'structlog', 'rich', 'asyncio'} & set(sys.modules)), 'imported')"
    )
    with trio.fail_after(DEADLINE):
        done = await trio.run_process(
            [sys.executable, "-c", program], capture_stdout=True, **folder.options()
        )
    token, imported = done.stdout.decode().splitlines()
    assert token.count(".") == 2
    assert imported == "imported", "they take longer to import than the command to run"
