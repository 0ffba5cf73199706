"""Keys of every kind, made once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.auth.support import Clock, Pair

MakePair = Callable[..., Pair]


@pytest.fixture(scope="session")
def make_pair(tmp_path_factory: pytest.TempPathFactory) -> MakePair:
    def make(algorithm: str, private: Any) -> Pair:
        folder = tmp_path_factory.mktemp("keys")
        private_pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public_pem = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (folder / "private.pem").write_bytes(private_pem)
        (folder / "public.pem").write_bytes(public_pem)
        return Pair(algorithm, private, str(folder / "private.pem"), str(folder / "public.pem"))

    return make


@pytest.fixture(scope="session")
def rsa_pair(make_pair: MakePair) -> Pair:
    return make_pair("RS256", rsa.generate_private_key(65537, 2048))


@pytest.fixture(scope="session")
def ec_pair(make_pair: MakePair) -> Pair:
    return make_pair("ES256", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(scope="session")
def ed_pair(make_pair: MakePair) -> Pair:
    return make_pair("EdDSA", ed25519.Ed25519PrivateKey.generate())


@pytest.fixture(scope="session", params=["rsa_pair", "ec_pair", "ed_pair"])
def pair(request: pytest.FixtureRequest) -> Pair:
    """Each asymmetric algorithm in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Pair)
    return found


@pytest.fixture
def now() -> Clock:
    """Seconds since 1970; starts at the real time, since PyJWT signs nothing by itself."""
    return Clock(float(int(time.time())))
