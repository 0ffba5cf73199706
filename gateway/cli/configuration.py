"""The settings as ``gateway config`` writes them: a file to start from, those in force, a page about all."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.cli.arguments import Failed, UserError
from gateway.config.described import Described, describe, explain_group, members, toml_of
from gateway.config.settings import CallSettings, RoomEvents, RoomHistory, Settings, hide_password

__all__ = ["page", "render", "template", "write_template"]

_WIDTH: Final = 100


def write_template(path: Path) -> None:
    """Make the file, readable by its owner only: secrets will be in it. Raises ``UserError``, ``Failed``."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(template())
    except FileExistsError:
        raise UserError(f"{path} exists already: name another file, or delete it first") from None
    except OSError as exc:
        raise Failed(f"{path} cannot be written: {exc.strerror}") from None


def template() -> str:
    """A configuration file with every setting and its default, commented out."""
    lines = [
        "# Settings of the Trireme gateway with their defaults. Remove the # before a setting to change it.",
        "# A flag of the command line wins over the environment (GATEWAY_PORT, GATEWAY_AUTH_SECRET, …),",
        "# which wins over this file. 'gateway check' says whether it can be used.",
    ]
    for group, settings in _by_group():
        if group:
            lines += ["", "", *_comment(explain_group(group)), f"[{group}]"]
        for setting in settings:
            lines += ["", *_comment(" ".join((*_sentences(setting),)))]
            if setting.example != setting.default:
                lines.append(f"# Example: {setting.name} = {toml_of(setting.example)}")
            lines.append(f"#{setting.name} = {toml_of(setting.default)}")
    return "\n".join(lines) + "\n"


def render(settings: Settings, sources: Mapping[str, str], *, changed: bool) -> str:
    """The settings in force as TOML, secrets hidden, with their sources; ``changed``: without defaults."""
    values = msgspec.to_builtins(settings)
    lines: list[str] = []
    for group, described in _by_group():
        found = []
        for setting in described:
            if changed and setting.path not in sources:
                continue
            value = (values[group] if group else values)[setting.name]
            text = f"{setting.name} = {toml_of(_hidden(setting.name, value))}"
            found.append(f"{text:<44}  # {sources.get(setting.path, 'default')}")
        if found:
            lines += [*([""] if lines else []), *([f"[{group}]"] if group else []), *found]
    return "\n".join(lines) if lines else "# every setting has its default"


def page() -> str:
    """``docs/configuration.md``."""
    lines = [
        "# Configuration",
        "",
        *_wrap(
            "Every setting, generated from the code by `gateway config page`. The first source that names a"
            " setting wins: command-line flag, environment variable, `gateway.toml` in the current folder (or"
            " the file of `--config`), default. An unknown key or a value out of range stops the start with"
            " one line.",
            120,
        ),
        "",
        "| command | does |",
        "|---|---|",
        "| `gateway config init` | writes `gateway.toml` with every setting and its default, commented out |",
        "| `gateway config show` | prints the settings in force, secrets hidden, and where each comes from |",
        "| `gateway check` | checks them, the keys, the broker and the database |",
        "",
        *_wrap(
            "In the environment a setting is `GATEWAY_` with its name in capitals, its group before it:"
            " `auth.secret` is `GATEWAY_AUTH_SECRET`. Lists and tables are JSON there; lists of texts may"
            " also be separated by commas. Times are in seconds, sizes in bytes.",
            120,
        ),
    ]
    for group, settings in _by_group():
        lines += ["", f"## {group}" if group else "## General", ""]
        if group:
            lines += [*_wrap(explain_group(group), 120), ""]
        lines += _table(settings)
        if group == "history":
            lines += [
                "",
                "Each table of `history.patterns`, and `history.organisation` and `history.user`, has these:",
            ]
            lines += ["", *_table(members(RoomHistory), name=lambda each: each.name)]
        if group == "events":
            lines += ["", "Each table of `events.patterns` has these:"]
            lines += ["", *_table(members(RoomEvents), name=lambda each: each.name)]
        if not group:
            lines += ["", '### calls."PATTERN"', "", *_wrap(explain_group_of(CallSettings), 120)]
            lines += ["", *_table(members(CallSettings), name=lambda each: each.name)]
    return "\n".join(lines) + "\n"


def explain_group_of(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split()).replace("``", "`")


def _table(settings: list[Described], name: Any = lambda each: each.path) -> Iterator[str]:
    yield "| setting | type | default | meaning, and *why* | example |"
    yield "|---|---|---|---|---|"
    for each in settings:
        kind = ", ".join(filter(None, (each.kind, each.unit)))
        default = "none" if each.default is None else f"`{toml_of(each.default)}`"
        example = "" if each.example is None else f"`{each.name} = {toml_of(each.example)}`"
        yield (
            "| "
            + " | ".join((f"`{name(each)}`", kind, default, f"{each.text} *{each.reason}*", example)).replace(
                "\n", " "
            )
            + " |"
        )


def _by_group() -> Iterator[tuple[str, list[Described]]]:
    for group, settings in groupby(describe().values(), key=lambda each: each.path.rpartition(".")[0]):
        yield group, list(settings)


def _sentences(setting: Described) -> Iterator[str]:
    yield setting.text
    yield setting.reason
    yield f"({', '.join(filter(None, (setting.kind, setting.unit)))})"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in _wrap(text.replace("`", ""), _WIDTH)]


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _hidden(name: str, value: Any) -> Any:
    if name == "secret" and value:
        return "***"
    if isinstance(value, dict):
        return {key: _hidden(key, each) for key, each in value.items()}
    if isinstance(value, list):
        return [_hidden("", each) for each in value]
    return hide_password(value) if isinstance(value, str) else value
