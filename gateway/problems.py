"""Problem documents (RFC 9457): how an error looks over HTTP.

Pure: the document itself; numbers and their statuses are in ``protocol.errors``.
Used by the REST resources, by the HTTP adapter for requests that never reach them, and
by whoever refuses an upgrade.
"""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any, Final

import msgspec

from protocol.errors import ErrorCode, ProtocolError

__all__ = [
    "CONTENT_TYPE",
    "STATUS",
    "code_for_status",
    "problem_bytes",
    "problem_document",
    "problem_for",
    "retry_after_header",
]

CONTENT_TYPE: Final = "application/problem+json"

STATUS: Final[dict[ErrorCode, int]] = {code: code.status for code in ErrorCode}
"""Every error number and the HTTP status that it has outside a WebSocket."""

_CODES: Final[dict[int, ErrorCode]] = {
    401: ErrorCode.UNAUTHENTICATED,
    403: ErrorCode.FORBIDDEN,
    404: ErrorCode.NOT_FOUND,
    405: ErrorCode.UNKNOWN_KIND,
    408: ErrorCode.TIMEOUT,
    409: ErrorCode.CONFLICT,
    413: ErrorCode.TOO_LARGE,
    414: ErrorCode.TOO_LARGE,
    429: ErrorCode.RATE_LIMITED,
    431: ErrorCode.TOO_LARGE,
    501: ErrorCode.UNKNOWN_CALL,
    503: ErrorCode.OVERLOADED,
    505: ErrorCode.UNSUPPORTED_VERSION,
}

_encoder = msgspec.json.Encoder()


def code_for_status(status: int) -> ErrorCode:
    """Return the error number for an HTTP status that did not come from one of our own errors."""
    if status in _CODES:
        return _CODES[status]
    return ErrorCode.MALFORMED if 400 <= status < 500 else ErrorCode.INTERNAL


def problem_document(
    code: ErrorCode, detail: str, *, status: int | None = None, retry_after: float | None = None
) -> dict[str, Any]:
    """Return the members of one problem document.

    ``type`` points into ``/docs`` of the same gateway, where each number is explained;
    ``status`` is the HTTP status (default: that of ``STATUS``); ``retry_after`` is in seconds.
    """
    status = STATUS[code] if status is None else status
    document: dict[str, Any] = {
        "type": f"/docs#error-{code.value}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code.value,
    }
    if retry_after is not None:
        document["retry_after"] = retry_after
    return document


def problem_for(error: ProtocolError) -> dict[str, Any]:
    """Return the problem document that says the same as ``error``."""
    document = problem_document(error.code, error.message, retry_after=error.retry_after)
    return document if error.details is None else {**error.details, **document}


def problem_bytes(document: dict[str, Any]) -> bytes:
    """Return the JSON text of a problem document."""
    return _encoder.encode(document)


def retry_after_header(seconds: float) -> str:
    """Return ``Retry-After`` for seconds: a whole number, rounded up (RFC 9110, section 10.2.3)."""
    return str(math.ceil(seconds))
