"""Where settings come from, which source wins, and how a wrong one is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config.settings import (
    CallSettings,
    Group,
    RoomEvents,
    RoomHistory,
    Settings,
    SettingsError,
    UserHistory,
    hide_password,
)
from gateway.config.sources import load_settings


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the configuration of the folder that it was started in."""
    monkeypatch.chdir(tmp_path)


def load(
    toml: str | None = None, environ: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> Settings:
    file = None
    if toml is not None:
        file = Path("test.toml")
        file.write_text(toml, encoding="utf-8")
    return load_settings(file, environ or {}, flags or {})


def refusal(*sources: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load(*sources)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults() -> None:
    assert load() == Settings()
    assert load("") == Settings()


def test_development_is_wider_where_nothing_else_is_said() -> None:
    wide = load("dev = true\n[limits]\nconnections_per_ip = 7\n")
    assert (wide.limits.connections_per_ip, wide.limits.connections_per_user) == (7, 0)
    assert (wide.rates.connections_per_ip, wide.rates.connections_per_user) == (0, 0)
    narrow = load("[limits]\nconnections_per_ip = 7\n")
    assert (narrow.limits.connections_per_ip, narrow.limits.connections_per_user) == (7, 1000)
    assert narrow.rates.connections_per_ip and narrow.rates.connections_per_user


def test_every_setting_can_be_given_in_each_way() -> None:
    def samples(struct: type[Group], prefix: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in msgspec.structs.asdict(struct()).items():
            if isinstance(value, Group) and not prefix:
                found |= samples(type(value), f"{name}.")
            else:
                found[prefix + name] = value
        return found

    for path, default in samples(Settings).items():
        group, _, name = path.rpartition(".")
        changed = _another(path, default)
        toml = f"[{group}]\n{name} = {_toml(changed)}" if group else f"{name} = {_toml(changed)}"
        text = changed if isinstance(changed, str) else msgspec.json.encode(changed).decode()
        variable = "GATEWAY_" + path.upper().replace(".", "_")
        needed = NEEDED.get(path, {})
        for settings in (
            load(toml, {}, needed),
            load(None, {variable: text}, needed),
            load(None, {}, {path: changed, **needed}),
        ):
            holder: Any = getattr(settings, group) if group else settings
            assert getattr(holder, name) == changed != default, path
            assert type(getattr(holder, name)) is type(default)


NEEDED: dict[str, dict[str, object]] = {
    "workers": {"broker": "redis://localhost"},
    "tls.key": {"tls.certificate": "c.pem"},
    "tls.certificate": {"tls.key": "k.pem"},
}
"""What a setting cannot be without."""


def _another(path: str, default: Any) -> Any:
    """A value that is allowed and not the default."""
    special: dict[str, Any] = {
        "broker": "redis://localhost:6379",
        "database": "postgresql+psycopg://me@localhost/db",
        "auth.algorithm": "ES256",
        "auth.default_rooms": {"chat:*": ["join"]},
        "history.patterns": {"chat:*": RoomHistory(messages=3, age=60.5)},
        "events.patterns": {"chat:*": RoomEvents(types=["message:*"], strict=True)},
        "history.organisation": RoomHistory(messages=3),
        "history.user": UserHistory(messages=3, age=60.5),
        "calls": {"pause_*": CallSettings(url="http://backend.test/calls", timeout=1.5, roles=["operator"])},
        "log.level": "debug",
        "log.format": "json",
        "allowed_origins": ["https://a.example", "https://b.example"],
        "trusted_proxies": ["10.0.0.0/8", "::1"],
        "extensions": ["app.calls"],
        "executions.vocabularies": ["a", "c"],
    }
    if path in special:
        return special[path]
    match default:
        case bool():
            return not default
        case int():
            return default + 1
        case float():
            return default * 0.75 or 0.5
        case dict():
            return {"acme": 2}
        case _:
            return "text"


def _toml(value: Any) -> str:
    value = msgspec.to_builtins(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
    return msgspec.json.encode(value).decode()


def test_the_flag_wins_over_the_environment_over_the_file() -> None:
    toml = "port = 1\nhost = 'a'\nnode = 'a'\n[auth]\nleeway = 1\naudience = 'a'"
    environ = {"GATEWAY_PORT": "2", "GATEWAY_HOST": "b", "GATEWAY_AUTH_LEEWAY": "2"}
    settings = load(toml, environ, {"port": 3, "host": None})
    assert (settings.port, settings.host, settings.node) == (3, "b", "a")
    assert (settings.auth.leeway, settings.auth.audience) == (2.0, "a")
    assert settings.auth.issuer == ""


def test_the_file_of_the_folder_is_read_where_it_exists() -> None:
    Path("gateway.toml").write_text("port = 4321")
    assert load().port == 4321
    assert load("port = 1").port == 1
    Path("gateway.toml").write_text("prot = 4321")
    assert refusal().startswith("gateway.toml: unknown key 'prot'")


def test_files_that_cannot_be_read() -> None:
    for name, words in (("none.toml", "does not exist"), (".", "cannot be read")):
        with pytest.raises(SettingsError, match=words) as caught:
            load_settings(Path(name), {}, {})
        assert name in str(caught.value)
    Path("binary.toml").write_bytes(b"node = '\xff'")
    with pytest.raises(SettingsError, match=r"binary\.toml is not UTF-8"):
        load_settings(Path("binary.toml"), {}, {})
    assert re.search(r"test\.toml is not valid TOML: .*line 2", refusal("port = 1\nport = 2\nx = 1"))


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("prot = 1", "unknown key 'prot' (did you mean port?)"),
        ("[auht]\nleeway = 1", "unknown key 'auht' (did you mean auth?)"),
        ("[auth]\nsecert = 'x'", "unknown key 'auth.secert' (did you mean auth.secret?)"),
        ("[auth]\nzzz = 1", "unknown key 'auth.zzz'"),
        ("auth = 1", "write it as a table [auth]"),
        ("[port]\nx = 1", "port: expected a whole number, got a table"),
        ("port = '8000'", "port: expected a whole number, got text"),
        ("port = 8000.5", "port: expected a whole number"),
        ("port = -1", "port: expected a whole number >= 0"),
        ("port = 65536", "port: expected a whole number <= 65535"),
        ("port = true", "port: expected a whole number"),
        ("dev = 1", "dev: expected true or false"),
        ("host = 1", "host: expected text"),
        ("workers = 0", "workers: expected a whole number >= 1"),
        ("allowed_origins = 'a'", "allowed_origins: expected a list"),
        ("allowed_origins = [1]", "allowed_origins: expected text"),
        ("[connection]\nheartbeat = 0", "connection.heartbeat: expected a number > 0"),
        ("[connection]\nheartbeat = nan", "connection.heartbeat: expected a"),
        ("[history]\nage = inf", "history.age: expected a finite number"),
        ("[auth]\nalgorithm = 'none'", "expected one of HS256, RS256, ES256, EdDSA"),
        ("[history.patterns.'chat:*']\nmesages = 3", "contains unknown field mesages"),
        ("[history.patterns.'chat:*']\nage = -1", "history.patterns"),
        ("[auth.default_rooms]\nx = ['dance']", "expected lists of join, publish, presence, history"),
        ("[auth.default_rooms]\nx = 'join'", "auth.default_rooms: expected a list"),
        ("[log]\nlevel = 'loud'", "log.level: expected one of debug, info"),
        ("node = 1979-05-27", "node: expected text"),
    ],
)
def test_a_wrong_file_is_refused_by_key(toml: str, words: str) -> None:
    message = refusal(toml)
    assert message.startswith("test.toml: ")
    assert words in message


def test_a_wrong_proxy_is_refused() -> None:
    assert refusal("trusted_proxies = ['10.0.0.0/33']").startswith(
        "trusted_proxies: '10.0.0.0/33' is not an address"
    )


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('[history.patterns."chat:\\t*"]\nage = 1', "must not contain control characters"),
        ("[history.patterns.'']\nage = 1", "history.patterns.'': must not be empty"),
        (f"[history.patterns.'{'x' * 201}']\nage = 1", "must not be longer than 200 bytes"),
        (
            "[history.patterns.'chat:*']\nage = inf",
            "history.patterns.'chat:*': age: expected a finite number",
        ),
    ],
)
def test_a_wrong_pattern_of_rooms_is_refused(toml: str, words: str) -> None:
    message = refusal(toml)
    assert message.startswith("history.patterns.") and words in message


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("GATEWAY_PROT", "1", "unknown variable GATEWAY_PROT (did you mean GATEWAY_PORT?)"),
        ("GATEWAY_AUTH_SECERT", "1", "(did you mean GATEWAY_AUTH_SECRET?)"),
        ("GATEWAY_AUTH", "1", "unknown variable GATEWAY_AUTH"),
        ("GATEWAY_port", "1", "unknown variable GATEWAY_port"),
        ("GATEWAY_", "1", "unknown variable GATEWAY_"),
        ("GATEWAY_PORT", "x", "GATEWAY_PORT: expected a whole number"),
        ("GATEWAY_PORT", "", "GATEWAY_PORT: expected a whole number"),
        ("GATEWAY_PORT", "99999", "GATEWAY_PORT: expected a whole number <= 65535"),
        ("GATEWAY_DEV", "maybe", "GATEWAY_DEV: expected true or false"),
        ("GATEWAY_CONNECTION_HEARTBEAT", "nan", "GATEWAY_CONNECTION_HEARTBEAT: expected a"),
        ("GATEWAY_CONNECTION_HEARTBEAT", "inf", "GATEWAY_CONNECTION_HEARTBEAT: expected a"),
        ("GATEWAY_AUTH_DEFAULT_ROOMS", "{", "GATEWAY_AUTH_DEFAULT_ROOMS: is not valid JSON"),
        ("GATEWAY_AUTH_DEFAULT_ROOMS", "chat", "GATEWAY_AUTH_DEFAULT_ROOMS: is not valid JSON"),
        ("GATEWAY_AUTH_DEFAULT_ROOMS", '{"a": 1}', "GATEWAY_AUTH_DEFAULT_ROOMS: expected a list"),
        ("GATEWAY_AUTH_DEFAULT_ROOMS", '{"a": ["x"]}', "expected lists of join, publish"),
        ("GATEWAY_ALLOWED_ORIGINS", "[1]", "GATEWAY_ALLOWED_ORIGINS: expected text"),
    ],
)
def test_a_wrong_variable_is_refused_by_name(variable: str, value: str, words: str) -> None:
    message = refusal(None, {variable: value})
    assert message.startswith("environment")
    assert words in message


def test_a_service_of_kubernetes_with_our_name_sets_nothing() -> None:
    """Every container beside a Service named "gateway" gets these."""
    service = {
        "GATEWAY_PORT": "tcp://10.0.0.1:80",
        "GATEWAY_SERVICE_HOST": "10.0.0.1",
        "GATEWAY_SERVICE_PORT": "80",
        "GATEWAY_SERVICE_PORT_HTTP": "80",
        "GATEWAY_PORT_80_TCP": "tcp://10.0.0.1:80",
        "GATEWAY_PORT_80_TCP_ADDR": "10.0.0.1",
        "GATEWAY_PORT_80_TCP_PORT": "80",
        "GATEWAY_PORT_80_TCP_PROTO": "tcp",
    }
    assert load(None, service) == Settings()
    assert load(None, {**service, "GATEWAY_PORT": "80"}).port == 80
    assert "GATEWAY_HOST_80_TCP" in refusal(None, {"GATEWAY_HOST_80_TCP": "tcp://10.0.0.1:80"})
    assert "GATEWAY_WORKERS" in refusal(None, {"GATEWAY_WORKERS": "tcp://10.0.0.1:80"})


def test_variables_of_other_programs_do_not_matter() -> None:
    assert load(environ={"PATH": "/bin", "MY_GATEWAY_PORT": "1", "GATEWAYPORT": "1"}) == Settings()


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("https://a.example", ["https://a.example"]),
        (" https://a.example , https://b.example,", ["https://a.example", "https://b.example"]),
        ('["https://a.example"]', ["https://a.example"]),
        ("", []),
    ],
)
def test_a_list_in_the_environment(text: str, origins: list[str]) -> None:
    assert load(environ={"GATEWAY_ALLOWED_ORIGINS": text}).allowed_origins == origins


def test_text_in_the_environment_stays_as_it_is() -> None:
    for text in ("null", "true", "123", "", " x "):
        assert load(environ={"GATEWAY_AUTH_SECRET": text}).auth.secret == text


def test_wrong_flags_are_refused() -> None:
    assert refusal(None, {}, {"port": 70000}).startswith("flag --port: expected a whole number <= 65535")
    assert "unknown flag 'prot'" in refusal(None, {}, {"prot": 1})


def test_more_workers_need_a_broker_that_they_can_share() -> None:
    message = refusal(None, {}, {"workers": 2})
    assert "memory broker" in message and "--broker redis://" in message
    assert load(flags={"workers": 2, "broker": "redis://localhost"}).workers == 2


@pytest.mark.parametrize("broker", ["memory", "redis://localhost:6379/0", "rediss://:pass@redis.example"])
def test_known_brokers(broker: str) -> None:
    assert load(flags={"broker": broker}).broker == broker


@pytest.mark.parametrize("database", ["sqlite:///a.db", "sqlite:////srv/a.db", "postgresql+psycopg://u@h/d"])
def test_known_databases(database: str) -> None:
    assert load(flags={"database": database}).database == database


@pytest.mark.parametrize("name", ["broker", "database"])
@pytest.mark.parametrize("address", ["nats://me:hidden@host", "", "redi", "sqlite://", "sqlite:///"])
def test_unknown_addresses_are_refused_without_their_password(name: str, address: str) -> None:
    message = refusal(None, {}, {name: address})
    assert message.startswith(f"{name} ") and "is unknown: use " in message
    assert "hidden" not in message


@pytest.mark.parametrize(("given", "missing"), [("certificate", "key"), ("key", "certificate")])
def test_half_of_tls_is_refused(given: str, missing: str) -> None:
    assert f"tls.{missing} is missing" in refusal(f"[tls]\n{given} = 'x.pem'")
    assert load("[tls]\nkey = 'k.pem'\ncertificate = 'c.pem'").tls.key == "k.pem"


def test_the_default_lifetime_of_tokens_must_be_allowed() -> None:
    assert "auth.token_ttl" in refusal("[auth]\ntoken_ttl = 100\nmax_token_ttl = 99")


def test_secrets_are_not_shown() -> None:
    hidden = "hidden-hidden-hidden-hidden-hidden"
    settings = load(
        f"broker = 'redis://:{hidden}@h'\ndatabase = 'postgresql+psycopg://h/d?password={hidden}'\n"
        f"[auth]\nsecret = '{hidden}'\njwks_url = 'https://me:{hidden}@h/keys'"
    )
    assert settings.auth.secret == hidden
    assert hidden not in repr(settings) and hidden not in str(settings.auth)
    assert "port=8000" in repr(settings)
    for toml in (f"[auth]\nsecret = ['{hidden}']", f"broker = '{hidden}://x'\nport = '{hidden}'"):
        assert hidden not in refusal(toml)
    for variable in ("GATEWAY_PORT", "GATEWAY_DEV", "GATEWAY_AUTH_DEFAULT_ROOMS", "GATEWAY_AUTH_ALGORITHM"):
        assert hidden not in refusal(None, {variable: hidden})


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("redis://user:p@ss/word@host:6379/0", "redis://user:***@host:6379/0"),
        ("redis://:pass@host", "redis://:***@host"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("postgresql+psycopg://u@h/d", "postgresql+psycopg://u@h/d"),
        (
            "postgresql+psycopg://h/d?user=u&password=p&x=1",
            "postgresql+psycopg://h/d?user=u&password=***&x=1",
        ),
        ("sqlite:///data/gateway.db", "sqlite:///data/gateway.db"),
    ],
)
def test_passwords_in_addresses(address: str, shown: str) -> None:
    assert hide_password(address) == shown


@pytest.mark.parametrize(
    "toml, expected",
    [
        ('[calls."pause_*"]\ntimeout = 1', "url"),
        ('[calls."pause_*"]\nurl = "ftp://x"', "calls"),
        ('[calls."pause_*"]\nurl = "http://x/"\nsecret = "whsec_"', "expected base64"),
        ('[calls."pause\\u0000*"]\nurl = "http://x/"', "calls."),
    ],
)
def test_a_backend_that_cannot_be_used_is_refused(toml: str, expected: str) -> None:
    assert expected in refusal(toml)
