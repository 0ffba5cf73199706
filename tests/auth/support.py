"""Keys, clocks and tokens that the gateway itself would not make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from gateway.testing.settings import SECRET


def sign(secret: str = SECRET, /, **claims: Any) -> str:
    """An HS256 token as another program would make it."""
    return jwt.encode(claims, secret, "HS256")


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Pair:
    """A private key and the two PEM files of it."""

    algorithm: str
    private: Any
    private_file: str
    public_file: str

    @property
    def public_pem(self) -> bytes:
        return Path(self.public_file).read_bytes()

    def jwk(self, kid: str | None, **more: Any) -> dict[str, Any]:
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        entry = algorithm.to_jwk(self.private.public_key(), as_dict=True)  # type: ignore[attr-defined]
        return {**entry, **({} if kid is None else {"kid": kid}), **more}

    def sign(self, kid: str | None = None, **claims: Any) -> str:
        headers = None if kid is None else {"kid": kid}
        return jwt.encode({"org": "acme", **claims}, self.private, self.algorithm, headers)
