"""Reading requests and writing answers: who asks, for which organisation, with which body."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from quart import Response, request
from werkzeug.exceptions import UnsupportedMediaType

from gateway.auth.identity import Identity
from gateway.rest.services import services
from protocol.errors import ErrorCode, ProtocolError
from protocol.json import check_items

__all__ = [
    "admit",
    "caller",
    "check_target",
    "identified",
    "named",
    "page",
    "peer_address",
    "read_body",
    "read_cursor",
    "read_query",
    "reply",
]

T = TypeVar("T")
K = TypeVar("K", str, tuple[int, str])
M = TypeVar("M", bound=msgspec.Struct)

_encoder = msgspec.json.Encoder()
_PATH: Final = re.compile(r" - at `(?:key in )?\$\.?(.*)`$")
_FIELD: Final = re.compile(r"field `(.*?)`")


async def caller() -> Identity:
    """Verify the bearer token; raises ``ProtocolError`` UNAUTHENTICATED and what the token deserves.

    Failed logins and requests count for the caller's address, user and organisation, as they do on
    WebSockets: raises RATE_LIMITED too.
    """
    identity = await services().admission.requesting(_address(), request.headers.get("Authorization", ""))
    admit(identity, len(await request.get_data()))
    return identity


async def identified() -> tuple[Identity, str]:
    """As :func:`caller`, who may also show a token or a ticket in the query, and counts nothing; and the
    address."""
    address = _address()
    identity = await services().admission.requesting(
        address,
        request.headers.get("Authorization", ""),
        ticket=request.args.get("ticket"),
        token=request.args.get("token"),
    )
    return identity, address


def peer_address() -> str:
    """The client's address, for what is noted of who did what."""
    return _address()


def admit(identity: Identity, size: int) -> None:
    """Count one command of ``size`` bytes; raises ``ProtocolError`` RATE_LIMITED."""
    services().admission.count(identity, _address(), size)


def count_users(identity: Identity, number: int) -> None:
    """A command that was counted went to ``number`` users: each counts as a command; what follows waits."""
    services().admission.count_users(identity, _address(), number)


def _address() -> str:
    forwarded = ",".join(request.headers.getlist("X-Forwarded-For"))
    return services().admission.address(request.remote_addr or "", forwarded)


def named(*places: str | None) -> str | None:
    """The organisation that a request names, in any of the ``places`` where it may (query, body).

    Raises ``ProtocolError`` BAD_FIELD when they disagree.
    """
    asked = {name for name in places if name is not None}
    if len(asked) > 1:
        raise ProtocolError(ErrorCode.BAD_FIELD, "org in the query and org in the body disagree")
    return asked.pop() if asked else None


async def read_body(model: type[M], *, optional: bool = False) -> M:
    """Decode the JSON body into ``model``; with ``optional`` an empty body is ``{}``.

    Raises ``UnsupportedMediaType``, and ``ProtocolError`` MALFORMED, TOO_LARGE for too many values, or
    MISSING_FIELD or BAD_FIELD with the field's name.
    """
    data = await request.get_data()
    assert isinstance(data, bytes)
    if optional and not data:
        data = b"{}"
    elif request.mimetype and request.mimetype != "application/json":
        raise UnsupportedMediaType("send the body with Content-Type: application/json")
    check_items(data, services().settings.limits.message_values)
    try:
        # msgspec does not look into the text of members that the model does not know.
        return msgspec.json.decode(data.decode("utf-8"), type=model)
    except msgspec.ValidationError as error:
        raise _field_error(error, "the body") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(ErrorCode.MALFORMED, f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise ProtocolError(ErrorCode.MALFORMED, "the body is nested too deeply") from None


def read_query(model: type[M]) -> M:
    """Convert the query parameters to ``model``; raises ``ProtocolError`` BAD_FIELD naming one."""
    try:
        return msgspec.convert(request.args.to_dict(), model, strict=False)
    except msgspec.ValidationError as error:
        raise _field_error(error, "the query") from None


def _field_error(error: msgspec.ValidationError, where: str) -> ProtocolError:
    text = str(error)
    path = _PATH.search(text)
    text = _PATH.sub("", text)
    text = text[:1].lower() + text[1:].replace("`", "")
    missing = "missing required field" in text
    field = path[1] if path and path[1] not in {"", "..."} else None
    if missing:
        name = _FIELD.search(str(error))
        assert name is not None
        full = f"{field}.{name[1]}" if field else name[1]
        return ProtocolError(ErrorCode.MISSING_FIELD, f"{where} lacks the field {full}")
    return ProtocolError(ErrorCode.BAD_FIELD, f"{field or where}: {text}")


def check_target() -> None:
    """Raise ``ProtocolError`` BAD_FIELD when path or query are not UTF-8 once percent-decoded.

    Servers and frameworks put replacement characters there, which would silently name another room.
    """
    scope: Any = request.scope
    for raw, name in ((scope.get("raw_path", b""), "path"), (scope["query_string"], "query")):
        try:
            unquote_to_bytes(raw).decode("utf-8")
        except UnicodeDecodeError:
            raise ProtocolError(ErrorCode.BAD_FIELD, f"the {name} is not UTF-8") from None


def reply(content: Any, status: int = 200) -> Response:
    """Answer with ``content`` as JSON."""
    return Response(_encoder.encode(content), status=status, content_type="application/json")


def read_cursor(cursor: str | None, kind: type[K]) -> K | None:
    """The key behind which the page of ``cursor`` begins; raises BAD_FIELD for a foreign one."""
    if not cursor:
        return None
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return msgspec.json.decode(text, type=kind)
    except ValueError:  # of base64 as well as of msgspec
        raise ProtocolError(ErrorCode.BAD_FIELD, "cursor: not issued here") from None


def page(items: list[T], *, key: Callable[[T], K], limit: int) -> tuple[list[T], str | None]:
    """Return the first ``limit`` of ordered items, and the cursor behind them when there are more."""
    if len(items) <= limit:
        return items, None
    last = _encoder.encode(key(items[limit - 1]))
    return items[:limit], base64.urlsafe_b64encode(last).decode().rstrip("=")
