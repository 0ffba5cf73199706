"""Reading the settings: flag, then environment, then file, then default.

Every refusal is a ``SettingsError`` of one line that names the key and the source it came
from, and never shows the value of a secret.
"""

from __future__ import annotations

import base64
import difflib
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import structs

from gateway.config.origins import normalize_origin
from gateway.config.redis_address import parse_address
from gateway.config.settings import Group, Settings, SettingsError, hide_password
from protocol.envelope import MAX_ROOM_BYTES
from protocol.errors import ProtocolError
from protocol.names import check_pattern

__all__ = ["DEFAULT_FILE", "SQLITE", "load_settings", "load_with_sources", "variable_of"]

DEFAULT_FILE: Final = Path("gateway.toml")
SQLITE: Final = "sqlite://"
_POSTGRESQL: Final = "postgresql+psycopg://"
_PREFIX: Final = "GATEWAY_"

_Tree = dict[str, Any]

# Kubernetes tells every container of a Service named "gateway": GATEWAY_SERVICE_HOST=10.0.0.1,
# GATEWAY_PORT=tcp://10.0.0.1:80, GATEWAY_PORT_80_TCP_ADDR=… They are no settings of ours.
_OF_A_SERVICE: Final = re.compile(
    r"GATEWAY_(SERVICE_(HOST|PORT(_\w+)?)=.*|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?=.*|PORT=(tcp|udp|sctp)://.*)",
    re.DOTALL,
)


_OF_DEVELOPMENT: Final[dict[str, dict[str, Any]]] = {
    "limits": {"connections_per_ip": 0, "connections_per_user": 0},
    "rates": {"connections_per_ip": 0.0, "connections_per_user": 0.0},
}
"""Defaults with ``--dev``, where a load test comes from one machine."""


def load_settings(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Settings:
    """The settings from ``file`` (without one ``./gateway.toml`` where it exists), from the
    ``GATEWAY_…`` variables of ``environ`` and from ``flags``.

    A flag is named after its setting (``port``, ``auth.in_band``); None means that it was not
    given. Raises ``SettingsError`` for anything that cannot be used.
    """
    return load_with_sources(file, environ, flags)[0]


def load_with_sources(
    file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]
) -> tuple[Settings, dict[str, str]]:
    """As ``load_settings``; and where each setting that is no default comes from, by its path."""
    tree: _Tree = {}
    sources: dict[str, str] = {}

    def take(layer: _Tree, source: Callable[[str], str]) -> None:
        _merge(tree, layer)
        sources.update((path, source(path)) for path in _paths(layer))

    take(_from_file(file), lambda path: str(file or DEFAULT_FILE))
    take(_from_environment(environ), variable_of)
    take(_from_flags(flags), _flag)
    if tree.get("dev"):
        sources = {**dict.fromkeys(_paths(_OF_DEVELOPMENT), "development mode"), **sources}
        for group, values in _OF_DEVELOPMENT.items():
            tree[group] = {**values, **tree.get(group, {})}
    tree["allowed_origins"] = [_origin(each) for each in tree.get("allowed_origins", ())]
    settings = msgspec.convert(tree, Settings)
    _check_together(settings)
    return settings, sources


def variable_of(path: str) -> str:
    """The environment variable of a setting."""
    return _PREFIX + path.upper().replace(".", "_")


def _flag(path: str) -> str:
    return "--" + path.replace("_", "-").replace(".", "-")


def _paths(tree: Mapping[str, Any]) -> Iterator[str]:
    for name, value in tree.items():
        if name in _GROUPS:
            yield from (f"{name}.{key}" for key in value)
        else:
            yield name


def _fields(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Field name → type, in the order of definition."""
    return {field.name: field.type for field in structs.fields(struct)}


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Group)


_SETTINGS: Final = _fields(Settings)
_GROUPS: Final = {name: _fields(kind) for name, kind in _SETTINGS.items() if _is_group(kind)}
_PATHS: Final[dict[str, Any]] = {name: kind for name, kind in _SETTINGS.items() if name not in _GROUPS} | {
    f"{group}.{name}": kind for group, fields in _GROUPS.items() for name, kind in fields.items()
}
"""``port`` or ``auth.secret`` → type, for every setting."""
_VARIABLES: Final = {variable_of(path): path for path in _PATHS}


def _from_file(file: Path | None) -> _Tree:
    if file is None:
        if not DEFAULT_FILE.exists():
            return {}
        file = DEFAULT_FILE
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(f"the configuration file {file} does not exist") from None
    except OSError as exc:
        raise SettingsError(f"the configuration file {file} cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"the configuration file {file} is not UTF-8 text") from None
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise SettingsError(f"{file} is not valid TOML: {_one_line(exc)}") from None
    tree: _Tree = {}
    for name, value in raw.items():
        fields = _GROUPS.get(name)
        if fields is None:
            if name not in _SETTINGS:
                raise SettingsError(f"{file}: unknown key {name!r}{_suggest(name, _SETTINGS)}")
            tree[name] = _convert(value, name, f"{file}: {name}")
            continue
        if not isinstance(value, dict):
            raise SettingsError(f"{file}: {name} is a group of settings: write it as a table [{name}]")
        for key, inner in value.items():
            if key not in fields:
                raise SettingsError(
                    f"{file}: unknown key {f'{name}.{key}'!r}{_suggest(key, fields, f'{name}.')}"
                )
            path = f"{name}.{key}"
            _put(tree, path, _convert(inner, path, f"{file}: {path}"))
    return tree


def _from_environment(environ: Mapping[str, str]) -> _Tree:
    tree: _Tree = {}
    for variable in sorted(environ):
        if not variable.startswith(_PREFIX):
            continue
        if _OF_A_SERVICE.fullmatch(f"{variable}={environ[variable]}"):
            continue
        path = _VARIABLES.get(variable)
        if path is None:
            raise SettingsError(f"environment: unknown variable {variable}{_suggest_variable(variable)}")
        source = f"environment variable {variable}"
        value = _parse_text(environ[variable], _PATHS[path], source)
        _put(tree, path, _convert(value, path, source, strict=False))
    return tree


def _from_flags(flags: Mapping[str, object]) -> _Tree:
    tree: _Tree = {}
    for path, value in flags.items():
        if path not in _PATHS:
            raise SettingsError(f"unknown flag {path!r}{_suggest(path, _PATHS)}")
        if value is not None:
            _put(tree, path, _convert(value, path, "flag " + _flag(path)))
    return tree


def _parse_text(text: str, kind: Any, source: str) -> Any:
    """Lists, maps and groups are JSON; a list of texts may also be separated by commas."""
    container = get_origin(kind) or kind
    if container not in (list, dict) and not _is_group(container):
        return text
    if container is list and not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        raise SettingsError(f"{source}: is not valid JSON") from None


def _convert(value: Any, path: str, where: str, *, strict: bool = True) -> Any:
    """``value`` checked against the type of the setting ``path``; ``where`` begins the error's line."""
    try:
        converted = msgspec.convert(value, _PATHS[path], strict=strict)
    except msgspec.ValidationError as exc:
        raise SettingsError(f"{where}: {_explain(exc, _PATHS[path])}") from None
    if isinstance(converted, float) and not math.isfinite(converted):
        raise SettingsError(f"{where}: expected a finite number")
    return converted


def _explain(exc: msgspec.ValidationError, kind: Any) -> str:
    """msgspec's words for people, without the value, which may be secret."""
    if get_origin(kind) is Literal:
        return f"expected one of {', '.join(map(str, get_args(kind)))}"
    text = _one_line(exc).partition(" - at ")[0]
    if text.startswith("Invalid enum value"):  # only inside `Permissions`
        return "expected lists of join, publish, presence, history"
    return _TYPE.sub(lambda found: _PLAIN[found[1]], text[:1].lower() + text[1:]).replace("`", "")


_PLAIN: Final = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}
_TYPE: Final = re.compile(rf"`?\b({'|'.join(_PLAIN)})\b")


def _origin(text: str) -> str:
    try:
        return normalize_origin(text)
    except ValueError as error:
        raise SettingsError(f"allowed_origins: {text!r} cannot be used: {error}") from None


def _check_together(settings: Settings) -> None:
    """What no setting can say alone."""
    broker, database, tls = settings.broker, settings.database, settings.tls
    if broker != "memory":
        parse_address(broker)
    if database != "none" and (
        not database.startswith((SQLITE + "/", _POSTGRESQL)) or database == SQLITE + "/"
    ):
        raise SettingsError(
            f"database {hide_password(database)!r} is unknown:"
            f" use {SQLITE}/FILE, {_POSTGRESQL}USER@HOST/NAME, or none"
        )
    if settings.workers > 1 and broker == "memory":
        raise SettingsError(
            f"{settings.workers} workers cannot share the memory broker, which lives in one process: "
            "use --broker redis://HOST:6379, or --workers 1"
        )
    if bool(tls.certificate) != bool(tls.key):
        missing = "tls.key" if tls.certificate else "tls.certificate"
        raise SettingsError(f"{missing} is missing: set both tls.certificate and tls.key, or none of them")
    for pattern, kept in settings.history.patterns.items():
        field = f"history.patterns.{pattern!r}"
        try:
            check_pattern(pattern, field=field, max_bytes=MAX_ROOM_BYTES)
        except ProtocolError as error:
            raise SettingsError(error.message) from None
        if kept.age is not None and not math.isfinite(kept.age):
            raise SettingsError(f"{field}: age: expected a finite number")
    for name, age in (
        ("organisation", settings.history.organisation.age),
        ("user", settings.history.user.age),
    ):
        if age is not None and not math.isfinite(age):
            raise SettingsError(f"history.{name}.age: expected a finite number")
    for pattern, events in settings.events.patterns.items():
        field = f"events.patterns.{pattern!r}"
        try:
            check_pattern(pattern, field=field, max_bytes=MAX_ROOM_BYTES)
            for event in events.types:
                check_pattern(event, field=f"{field}.types")
        except ProtocolError as error:
            raise SettingsError(error.message) from None
    for pattern, call in settings.calls.items():
        try:
            check_pattern(pattern, field=f"calls.{pattern!r}")
        except ProtocolError as error:
            raise SettingsError(error.message) from None
        try:
            usable = not call.secret or bool(base64.b64decode(call.secret.removeprefix("whsec_") + "=="))
        except ValueError:
            usable = False
        if not usable:
            raise SettingsError(
                f"calls.{pattern!r}.secret: expected base64, with or without whsec_ before it"
            )
    for proxy in settings.trusted_proxies:
        try:
            ip_network(proxy, strict=False)
        except ValueError:
            raise SettingsError(f"trusted_proxies: {proxy!r} is not an address or a network") from None
    if settings.auth.token_ttl > settings.auth.max_token_ttl:
        raise SettingsError("auth.token_ttl must not be longer than auth.max_token_ttl")


def _put(tree: _Tree, path: str, value: Any) -> None:
    group, _, name = path.rpartition(".")
    (tree.setdefault(group, {}) if group else tree)[name] = value


def _merge(below: _Tree, above: _Tree) -> None:
    for name, value in above.items():
        if name in _GROUPS and name in below:
            below[name].update(value)
        else:
            below[name] = value


def _suggest(name: str, known: Iterable[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {prefix}{near[0]}?)" if near else ""


def _suggest_variable(variable: str) -> str:
    # Compared without the prefix, which would make everything look alike.
    return _suggest(
        variable.removeprefix(_PREFIX), [name.removeprefix(_PREFIX) for name in _VARIABLES], _PREFIX
    )


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())
