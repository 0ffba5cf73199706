"""``gateway check`` finds what would lose data or let somebody in, before it does."""

from __future__ import annotations

import base64
import secrets
import sqlite3
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gateway.store import migrate, newest_version
from tests.processes import Folder
from tests.redis_server import redis_server

STRONG = secrets.token_urlsafe(32)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, {"GATEWAY_DATABASE": "none"})


async def warnings(folder: Folder, **environ: str) -> list[str]:
    """What the command warns of, where everything can be used."""
    result = await folder.run("check", **environ)
    assert (result.code, result.err) == (0, ""), result.out
    assert "FAILED" not in result.out
    return [line for line in result.out.splitlines() if ": warning: " in line]


def write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, mode: int) -> None:
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path.chmod(mode)


async def test_redis_settings_that_lose_data(folder: Folder, tmp_path: Path) -> None:
    async with redis_server(tmp_path / "redis", "--maxmemory-policy", "allkeys-lru") as server:
        environ = {"GATEWAY_BROKER": server.url, "GATEWAY_AUTH_SECRET": STRONG}
        policy, disk = await warnings(folder, **environ)
        assert policy.startswith("broker: warning: maxmemory-policy is allkeys-lru")
        assert disk.startswith("broker: warning: no append-only file") and "use appendonly yes" in disk
        await server.ask("CONFIG SET", "maxmemory-policy", "noeviction")
        await server.ask("CONFIG SET", "appendonly", "yes")
        assert await warnings(folder, **environ) == []


async def test_a_database_older_or_newer_than_the_code(folder: Folder, tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'old.db'}"
    environ = {"GATEWAY_DATABASE": address, "GATEWAY_AUTH_SECRET": STRONG}
    migrate(address, "0001")
    (old,) = await warnings(folder, **environ)
    assert f"schema 0001 is older than {newest_version()}" in old
    migrate(address)
    with sqlite3.connect(tmp_path / "old.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    (new,) = await warnings(folder, **environ)
    assert f"schema 9999 is newer than {newest_version()}" in new


async def test_keys_that_others_can_read_or_guess(folder: Folder, tmp_path: Path) -> None:
    write_key(tmp_path / "sign.pem", ec.generate_private_key(ec.SECP256R1()), 0o640)
    (tmp_path / "gateway.toml").write_text(
        f"""
        [auth]
        algorithm = "ES256"
        private_key_file = "sign.pem"
        [calls."a:*"]
        url = "https://backend.example/calls"
        secret = "whsec_{base64.b64encode(b"short").decode()}"
        [calls."b:*"]
        url = "https://backend.example/calls"
        secret = "whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
        """
    )
    (tmp_path / "gateway.toml").chmod(0o600)
    readable, guessed = await warnings(folder)
    assert "sign.pem can be read by other users of this machine: chmod 600 sign.pem" in readable
    assert "calls.'a:*'.secret is weak: 5 bytes" in guessed
    write_key(tmp_path / "sign.pem", rsa.generate_private_key(65537, 1024), 0o600)
    result = await folder.run("check", GATEWAY_AUTH_ALGORITHM="RS256")
    assert result.code == 1
    assert "keys: FAILED: auth.private_key_file does not fit auth.algorithm RS256" in result.out
