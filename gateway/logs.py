"""Logs: one line per event, for people on a terminal and as JSON everywhere else.

No secret reaches a line: values under telling names are hidden, and so are tokens inside
addresses and ``Authorization`` headers that turn up in any text.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TextIO

from gateway.config.settings import LogSettings, hide_password

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

__all__ = ["HIDDEN", "configure", "errors_only", "hide_secrets", "redact"]

HIDDEN: Final = "***"
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_TELLING: Final = re.compile(
    r"token|ticket|secret|password|passwd|authorization|cookie|private_key", re.IGNORECASE
)
_IN_ADDRESS: Final = re.compile(r"\b(token|ticket)=[^&\s\"'#]+", re.IGNORECASE)
_BEARER: Final = re.compile(r"\b(bearer\s+)[\w.~+/=-]+", re.IGNORECASE)
_DEPTH: Final = 4
_CHATTY: Final = ("alembic", "httpx", "httpcore", "hypercorn.access")


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """structlog processor that hides secrets.

    Numbers and truth values stay (a count of tickets is no ticket), and so do the keys with which
    structlog carries a record of the standard library.
    """
    return {
        name: value if name.startswith("_") else _redacted(name, value, _DEPTH)
        for name, value in event.items()
    }


def configure(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send the logs of structlog and of the standard library to ``stream`` (default: standard error).

    May be called again; the last call counts.
    """
    import structlog  # here, because it takes longer to import than most commands run

    stream = sys.stderr if stream is None else stream
    human = settings.format == "human" or (settings.format == "auto" and stream.isatty())
    level = _LEVELS[settings.level]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        # Tracebacks become text before the redaction sees them, and never show local variables.
        structlog.processors.format_exc_info,
        redact,
    ]
    renderer: Processor
    if human:
        renderer = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    else:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # A line is one write: workers share the stream, and their lines must not mix.
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _CHATTY:  # a line for every request
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def errors_only() -> None:
    """Let the standard library's logging write errors to standard error, as plain text, and nothing else.

    For short commands that log nothing by structlog, and need not wait for its import.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Plain("%(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.ERROR)


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return hide_secrets(super().format(record))


def _redacted(name: object, value: Any, depth: int) -> Any:
    if isinstance(value, bool | int | float | None):
        return value
    if isinstance(name, str) and _TELLING.search(name) and value:
        return HIDDEN
    if depth > 0 and isinstance(value, Mapping):
        return {key: _redacted(key, inner, depth - 1) for key, inner in value.items()}
    if depth > 0 and isinstance(value, list | tuple | set | frozenset):
        return [_redacted(None, inner, depth - 1) for inner in value]
    return hide_secrets(str(value))


def hide_secrets(text: str) -> str:
    """``text`` without the tokens, tickets and passwords that it shows in addresses and headers."""
    text = _IN_ADDRESS.sub(rf"\1={HIDDEN}", text)
    return hide_password(_BEARER.sub(rf"\g<1>{HIDDEN}", text))
