"""The algorithm comes from the configuration, and only the right key opens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway.auth.tokens import Authenticator
from gateway.config.settings import AuthSettings
from gateway.testing.settings import SECRET
from protocol.errors import ErrorCode, ProtocolError
from tests.auth.conftest import MakePair
from tests.auth.support import Clock, Pair, sign


def settings(pair: Pair, *, public: bool = True, private: bool = False) -> AuthSettings:
    return AuthSettings(
        algorithm=pair.algorithm,  # type: ignore[arg-type]
        public_key_file=pair.public_file if public else "",
        private_key_file=pair.private_file if private else "",
    )


def assemble(header: dict[str, object], claims: dict[str, object], key: bytes | None) -> str:
    """A token put together by hand: signed with HMAC under ``key``, or not at all."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    signature = b"" if key is None else hmac.digest(key, b".".join(parts), hashlib.sha256)
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


async def refusal(auth: Authenticator, token: str) -> str:
    with pytest.raises(ProtocolError) as caught:
        await auth.verify(token)
    assert caught.value.code is ErrorCode.UNAUTHENTICATED
    assert token not in caught.value.message
    return caught.value.message


async def test_a_public_key_checks_and_cannot_issue(pair: Pair) -> None:
    auth = Authenticator(settings(pair))
    assert (await auth.verify(pair.sign(sub="alice"))).user == "alice"
    assert not auth.can_issue
    with pytest.raises(ProtocolError) as caught:
        auth.issue(org="acme")
    assert caught.value.code is ErrorCode.CALL_REJECTED


@pytest.mark.parametrize("public", [True, False])
async def test_a_private_key_issues_what_its_public_half_checks(pair: Pair, now: Clock, public: bool) -> None:
    auth = Authenticator(settings(pair, public=public, private=True), now=now)
    assert auth.can_issue
    issued = auth.issue(org="acme", user="alice")
    assert (await auth.verify(issued.token)).user == "alice"
    elsewhere = jwt.decode(issued.token, pair.public_pem, [pair.algorithm])
    assert elsewhere["jti"] == issued.jti


async def test_a_token_of_another_key_is_refused(pair: Pair, make_pair: MakePair) -> None:
    auth = Authenticator(settings(pair))
    private = {
        "RS256": lambda: rsa.generate_private_key(65537, 2048),
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
    }[pair.algorithm]()
    stranger = make_pair(pair.algorithm, private)
    assert await refusal(auth, stranger.sign()) == "the token's signature does not match"
    head, payload, _ = pair.sign().split(".")
    assert await refusal(auth, f"{head}.{payload}.AAAA") == "the token's signature does not match"
    assert await refusal(auth, f"{head}.{payload}.") == "the token's signature does not match"


async def test_hmac_under_the_public_key_is_refused(pair: Pair) -> None:
    auth = Authenticator(settings(pair))
    confused = assemble({"alg": "HS256", "typ": "JWT"}, {"org": "acme"}, pair.public_pem)
    assert "wrong algorithm" in await refusal(auth, confused)


@pytest.mark.parametrize("name", ["none", "None", "NONE", "", None, 5, ["HS256"], {"alg": "HS256"}])
async def test_unsigned_tokens_are_refused(pair: Pair, name: object) -> None:
    for auth in (Authenticator(settings(pair)), Authenticator(AuthSettings(secret=SECRET))):
        assert "wrong algorithm" in await refusal(auth, assemble({"alg": name}, {"org": "acme"}, None))
    assert "wrong algorithm" in await refusal(auth, assemble({}, {"org": "acme"}, SECRET.encode()))


async def test_every_other_algorithm_is_refused(rsa_pair: Pair, ec_pair: Pair, ed_pair: Pair) -> None:
    tokens = {pair.algorithm: pair.sign() for pair in (rsa_pair, ec_pair, ed_pair)}
    tokens["HS256"] = sign(org="acme")
    tokens["HS512"] = jwt.encode({"org": "acme"}, SECRET * 2, "HS512")
    tokens["RS512"] = jwt.encode({"org": "acme"}, rsa_pair.private, "RS512")
    tokens["PS256"] = jwt.encode({"org": "acme"}, rsa_pair.private, "PS256")
    gateways = {pair.algorithm: Authenticator(settings(pair)) for pair in (rsa_pair, ec_pair, ed_pair)}
    gateways["HS256"] = Authenticator(AuthSettings(secret=SECRET))
    for wanted, auth in gateways.items():
        for algorithm, token in tokens.items():
            if algorithm == wanted:
                await auth.verify(token)
            else:
                assert f"not signed with {wanted}" in await refusal(auth, token)


async def test_hs256_takes_any_secret_bytes() -> None:
    secret = "schlüssel " * 4
    auth = Authenticator(AuthSettings(secret=secret))
    assert (await auth.verify(auth.issue(org="acme").token)).org == "acme"
    assert (await auth.verify(sign(secret, org="acme"))).org == "acme"


async def test_critical_headers_that_nobody_knows_are_refused() -> None:
    auth = Authenticator(AuthSettings(secret=SECRET))
    header: dict[str, object] = {"alg": "HS256", "crit": ["exp-date"], "exp-date": 1}
    assert "not a well-formed JWT" in await refusal(auth, assemble(header, {"org": "acme"}, SECRET.encode()))
