"""Log lines: their two forms, their level, and what never gets into them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from gateway.config.settings import AuthSettings, LogSettings
from gateway.logs import configure, hide_secrets

TOKEN = "eyJh.eyJvcmciOi.c2lnbmF0dXJl"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leaves the process's logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    chatty = {name: logging.getLogger(name).level for name in ("httpx", "httpcore", "hypercorn.access")}
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in chatty.items():
        logging.getLogger(name).setLevel(before)


def json_lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_where_nobody_looks() -> None:
    stream = io.StringIO()
    configure(LogSettings(), stream)
    structlog.get_logger("x").info("joined", room="chät", members=3)
    (line,) = json_lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "joined", "room": "chät", "members": 3, "level": "info"}


def test_text_on_a_terminal() -> None:
    stream = Terminal()
    configure(LogSettings(), stream)
    structlog.get_logger("x").info("joined", room="chat")
    assert "joined" in stream.getvalue() and not stream.getvalue().startswith("{")


def test_the_form_can_be_chosen() -> None:
    stream: io.StringIO = Terminal()
    configure(LogSettings(format="json"), stream)
    structlog.get_logger("x").info("joined")
    assert json_lines(stream)[0]["event"] == "joined"
    stream = io.StringIO()
    configure(LogSettings(format="human"), stream)
    structlog.get_logger("x").info("joined")
    assert "joined" in stream.getvalue() and not stream.getvalue().startswith("{")


def test_the_level_holds_for_both_kinds_of_loggers() -> None:
    stream = io.StringIO()
    configure(LogSettings(level="warning"), stream)
    structlog.get_logger("x").info("hidden")
    logging.getLogger("hypercorn.error").info("hidden")
    structlog.get_logger("x").warning("shown")
    logging.getLogger("hypercorn.error").warning("shown %s", "too")
    first, second = json_lines(stream)
    assert first["event"] == "shown"
    assert (second["event"], second["logger"], second["level"]) == ("shown too", "hypercorn.error", "warning")


def test_requests_of_our_own_are_not_told_one_by_one() -> None:
    stream = io.StringIO()
    configure(LogSettings(), stream)
    logging.getLogger("httpx").info("HTTP Request: GET https://keys.example")
    assert stream.getvalue() == ""


def test_the_last_configuration_counts() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure(LogSettings(), first)
    configure(LogSettings(), second)
    structlog.get_logger("x").info("one")
    logging.getLogger("y").warning("two")
    assert first.getvalue() == ""
    assert [line["event"] for line in json_lines(second)] == ["one", "two"]


@pytest.mark.parametrize("form", ["json", "human"])
def test_no_secret_gets_into_a_line(form: Any) -> None:
    stream = io.StringIO()
    configure(LogSettings(format=form), stream)
    log = structlog.get_logger("x")
    log.info("a", token=TOKEN, access_token=TOKEN, Ticket=TOKEN, headers={"authorization": f"Basic {TOKEN}"})
    log.info("b", nested=[{"deep": ({"password": TOKEN},)}], secret=[TOKEN], cookie={TOKEN: TOKEN})
    log.info(
        f"GET /ws?a=1&token={TOKEN}&b=2", path=f"/ws?ticket={TOKEN}", header=f"Authorization: Bearer {TOKEN}"
    )
    log.info("c", settings=AuthSettings(secret=TOKEN), address=f"redis://me:{TOKEN}@host")
    try:
        local = TOKEN  # tracebacks that show variables would show it
        raise ValueError(f"bad address ws://host/ws?token={local}")
    except ValueError:
        log.exception("d")
        logging.getLogger("hypercorn.error").exception("e %s", f"token={local}")
    text = stream.getvalue()
    assert TOKEN not in text
    assert "ValueError: bad address" in text
    assert "b=2" in text and "me:***@host" in text


def test_numbers_under_telling_names_stay() -> None:
    stream = io.StringIO()
    configure(LogSettings(), stream)
    structlog.get_logger("x").info("counted", tickets=5, token_ttl=3600.0, secret=None, has_token=True)
    (line,) = json_lines(stream)
    assert (line["tickets"], line["token_ttl"], line["secret"], line["has_token"]) == (5, 3600.0, None, True)


def test_values_of_any_type_are_written() -> None:
    stream = io.StringIO()
    configure(LogSettings(), stream)
    structlog.get_logger("x").info("odd", value=object, error=ValueError("v"), data=b"x")
    (line,) = json_lines(stream)
    assert line["error"] == "v"


def test_text_without_secrets_is_left_alone() -> None:
    for text in ("a plain sentence about tokens", "GET /ws?a=1", "bearer", "redis://host:6379"):
        assert hide_secrets(text) == text
