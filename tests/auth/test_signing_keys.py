"""Keys at the start: what is accepted, what stops it, and development mode's own."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519

from gateway.auth.keys import load_keys, with_signing_key
from gateway.auth.tokens import Authenticator
from gateway.config.settings import AuthSettings, Settings, SettingsError
from gateway.testing.settings import SECRET
from tests.auth.conftest import MakePair
from tests.auth.support import Pair


def refused(start: Callable[[], object]) -> str:
    with pytest.raises(SettingsError) as caught:
        start()
    message = str(caught.value)
    assert "\n" not in message
    return message


def refused_keys(**changes: Any) -> str:
    return refused(lambda: load_keys(auth(**changes)))


def auth(**changes: Any) -> AuthSettings:
    return AuthSettings(**changes)


def test_a_short_secret_stops_the_start() -> None:
    message = refused_keys(secret="x" * 31)
    assert "31 bytes" in message and "32" in message and "xxx" not in message
    load_keys(auth(secret="x" * 32))
    load_keys(auth(secret="ä" * 16))


def test_a_public_key_is_no_secret(rsa_pair: Pair) -> None:
    message = refused_keys(secret=rsa_pair.public_pem.decode())
    assert "looks like a public key" in message and "BEGIN" not in message


def test_a_missing_key_stops_the_start() -> None:
    assert "auth.secret" in refused_keys()
    for algorithm in ("RS256", "ES256", "EdDSA"):
        assert "auth.public_key_file or auth.jwks_url" in refused_keys(algorithm=algorithm)


def test_settings_of_another_algorithm_stop_the_start(rsa_pair: Pair) -> None:
    for changes in (
        {"jwks_url": "http://localhost/keys"},
        {"public_key_file": rsa_pair.public_file},
        {"private_key_file": rsa_pair.private_file},
    ):
        assert "need auth.algorithm" in refused_keys(secret=SECRET, **changes)


def test_unreadable_files_stop_the_start(tmp_path: Path, rsa_pair: Pair) -> None:
    missing = str(tmp_path / "none.pem")
    assert "No such file" in refused_keys(algorithm="RS256", public_key_file=missing)
    assert "No such file" in refused_keys(algorithm="RS256", private_key_file=missing)
    damaged = tmp_path / "damaged.pem"
    damaged.write_bytes(b"-----BEGIN PUBLIC KEY-----\nsecret stuff\n-----END PUBLIC KEY-----\n")
    message = refused_keys(algorithm="RS256", public_key_file=str(damaged))
    assert "not a PEM public key" in message and "stuff" not in message
    message = refused_keys(algorithm="RS256", private_key_file=rsa_pair.public_file)
    assert "not a PEM private key" in message


def test_a_private_key_with_a_password_stops_the_start(tmp_path: Path, rsa_pair: Pair) -> None:
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        rsa_pair.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"pass"),
        )
    )
    assert "without a password" in refused_keys(algorithm="RS256", private_key_file=str(locked))


def test_keys_of_the_wrong_kind_or_strength_stop_the_start(
    tmp_path: Path, make_pair: MakePair, rsa_pair: Pair, ec_pair: Pair, ed_pair: Pair
) -> None:
    weak = make_pair("RS256", rsa.generate_private_key(65537, 1024))
    other_curve = make_pair("ES256", ec.generate_private_key(ec.SECP384R1()))
    exchange = make_pair("EdDSA", x25519.X25519PrivateKey.generate())
    for algorithm, pair in (
        ("RS256", weak),
        ("RS256", ec_pair),
        ("ES256", other_curve),
        ("ES256", rsa_pair),
        ("EdDSA", exchange),
        ("EdDSA", ec_pair),
    ):
        for changes in ({"public_key_file": pair.public_file}, {"private_key_file": pair.private_file}):
            message = refused_keys(algorithm=algorithm, **changes)
            assert f"does not fit auth.algorithm {algorithm}" in message


def test_halves_that_do_not_belong_together_stop_the_start(make_pair: MakePair, ec_pair: Pair) -> None:
    other = make_pair("ES256", ec.generate_private_key(ec.SECP256R1()))
    settings = auth(
        algorithm="ES256", public_key_file=ec_pair.public_file, private_key_file=other.private_file
    )
    assert "do not belong together" in refused(lambda: load_keys(settings))


def test_keys_are_not_shown(ec_pair: Pair) -> None:
    assert SECRET not in repr(load_keys(auth(secret=SECRET)))
    assert SECRET not in repr(Settings(auth=auth(secret=SECRET)))
    assert SECRET not in str(auth(secret=SECRET))


def test_development_mode_makes_a_key_and_keeps_it(tmp_path: Path) -> None:
    settings = Settings(dev=True, data_dir=str(tmp_path / "some" / "data"))
    first = with_signing_key(settings).auth.secret
    assert len(first) >= 32
    file = tmp_path / "some" / "data" / "dev-secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [entry.name for entry in file.parent.iterdir()] == ["dev-secret"]
    assert with_signing_key(settings).auth.secret == first
    assert with_signing_key(Settings(dev=True, data_dir=str(tmp_path / "other"))).auth.secret != first


def test_development_mode_uses_a_configured_key(tmp_path: Path, ec_pair: Pair) -> None:
    configured = Settings(dev=True, data_dir=str(tmp_path), auth=auth(secret=SECRET))
    assert with_signing_key(configured) == configured
    asymmetric = Settings(
        dev=True, data_dir=str(tmp_path), auth=auth(algorithm="ES256", public_key_file=ec_pair.public_file)
    )
    assert with_signing_key(asymmetric) == asymmetric
    assert list(tmp_path.iterdir()) == []


def test_without_development_mode_no_key_is_made(tmp_path: Path) -> None:
    message = refused(lambda: with_signing_key(Settings(data_dir=str(tmp_path))))
    assert "no signing key" in message and "GATEWAY_AUTH_SECRET" in message and "--dev" in message
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_development_key_stops_the_start(tmp_path: Path) -> None:
    settings = Settings(dev=True, data_dir=str(tmp_path))
    (tmp_path / "dev-secret").write_text("short\n")
    assert "damaged" in refused(lambda: with_signing_key(settings))
    (tmp_path / "dev-secret").write_bytes(b"\xff" * 40)
    assert "cannot be used" in refused(lambda: with_signing_key(settings))
    (tmp_path / "dev-secret").unlink()
    (tmp_path / "dev-secret").mkdir()
    assert "cannot be used" in refused(lambda: with_signing_key(settings))
    file = tmp_path / "file"
    file.write_text("")
    assert "cannot be used" in refused(lambda: with_signing_key(Settings(dev=True, data_dir=str(file))))


def test_an_address_of_another_scheme_stops_the_start() -> None:
    settings = auth(algorithm="RS256", jwks_url="file:///etc/passwd")
    assert "http://" in refused(lambda: Authenticator(settings))
