"""What ``gateway token --inspect`` says about a token: its content, and whether the gateway would take it."""

from __future__ import annotations

import base64
import time
from typing import Any

import msgspec

from gateway.auth.tokens import Authenticator
from gateway.cli.arguments import UserError
from gateway.config.settings import SettingsError
from protocol.errors import ProtocolError

__all__ = ["inspect"]


async def inspect(token: str, authenticator: Authenticator | SettingsError) -> tuple[str, bool]:
    """The token's header and claims with a verdict, as JSON; and whether it verifies.

    ``authenticator`` may be the reason why there is none. Raises ``UserError`` for what is no JWT.
    """
    parts = token.strip().split(".")
    try:
        header, claims = (_decode(part) for part in parts[:2])
        if len(parts) != 3:
            raise ValueError
    except ValueError:
        raise UserError("--inspect: is not a JWT: three parts in base64, separated by dots") from None
    verdict, valid = "valid", True
    if isinstance(authenticator, SettingsError):
        verdict, valid = f"not verified: {authenticator}", False
    else:
        try:
            await authenticator.verify(token.strip())
        except ProtocolError as error:
            verdict, valid = f"refused with {int(error.code)}: {error.message}", False
    found: dict[str, Any] = {"verdict": verdict}
    if isinstance(claims, dict) and isinstance(expires := claims.get("exp"), int | float):
        found["expires_in"] = round(expires - time.time())
    found |= {"header": header, "claims": claims}
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode(), valid


def _decode(part: str) -> Any:
    return msgspec.json.decode(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
