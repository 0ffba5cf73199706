"""Keys from a JWKS address, fetched from a real server on the loopback."""

from __future__ import annotations

import gzip
import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio
import trio.testing
import trustme
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.warnings import InsecureKeyLengthWarning

from gateway.auth import jwks
from gateway.auth.tokens import Authenticator
from gateway.config.settings import AuthSettings
from protocol.errors import ErrorCode, ProtocolError
from tests.auth.conftest import MakePair
from tests.auth.support import Clock, Pair


class KeyServer:
    """Answers every request with ``body``; counts them; can be made to wait, fail or go away."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.body: bytes = b""
        self.status = "200 OK"
        self.headers = ""
        self.requests = 0
        self.delivered = 0
        self.drip = 0.0
        """Seconds between two bytes."""
        self.port = 0
        self.gate = trio.Event()
        self.gate.set()
        self.waiting = trio.Event()
        self._scope = trio.CancelScope()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/keys.json"

    def offer(self, *keys: dict[str, Any]) -> None:
        self.body = json.dumps({"keys": keys}).encode()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        with self._scope:
            task_status.started()
            if self._tls is None:
                await trio.serve_listeners(self._answer, listeners)
            else:
                secure = [
                    trio.SSLListener(listener, self._tls, https_compatible=True) for listener in listeners
                ]
                await trio.serve_listeners(self._answer, secure)

    def stop(self) -> None:
        self._scope.cancel()

    async def _answer(self, stream: trio.abc.Stream) -> None:
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                part = await stream.receive_some()
                if not part:
                    return
                head += part
            self.requests += 1
            self.waiting.set()
            await self.gate.wait()
            length = f"Content-Length: {len(self.body)}\r\n" if "chunked" not in self.headers else ""
            answer = f"HTTP/1.1 {self.status}\r\nConnection: close\r\n{length}{self.headers}\r\n"
            whole = answer.encode() + self.body
            for byte in whole if self.drip else ():
                await stream.send_all(bytes([byte]))
                await trio.sleep(self.drip)
            await stream.send_all(b"" if self.drip else whole)
            self.delivered += 1
        except trio.BrokenResourceError:
            return  # the client had enough
        finally:
            await trio.aclose_forcefully(stream)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
async def server(nursery: trio.Nursery, ec_pair: Pair) -> AsyncIterator[KeyServer]:
    server = KeyServer()
    await nursery.start(server.run)
    server.offer(ec_pair.jwk("k1"))
    yield server


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def new_pair(make_pair: MakePair) -> Pair:
    return make_pair("ES256", ec.generate_private_key(ec.SECP256R1()))


MakeAuth = Callable[..., Authenticator]


@pytest.fixture
def make_auth(server: KeyServer, clock: Clock) -> MakeAuth:
    def make(**changes: Any) -> Authenticator:
        settings = AuthSettings(**{"algorithm": "ES256", "jwks_url": server.url, **changes})
        return Authenticator(settings, clock=clock)

    return make


async def refusal(auth: Authenticator, token: str) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        await auth.verify(token)
    assert token not in caught.value.message
    return caught.value


async def test_every_algorithm_works_with_a_key_set(
    server: KeyServer, make_auth: MakeAuth, rsa_pair: Pair, ec_pair: Pair, ed_pair: Pair
) -> None:
    pairs = (rsa_pair, ec_pair, ed_pair)
    server.offer(*(pair.jwk(f"key of {pair.algorithm}") for pair in pairs))
    for pair in pairs:
        auth = make_auth(algorithm=pair.algorithm)
        assert (await auth.verify(pair.sign(f"key of {pair.algorithm}", sub="alice"))).user == "alice"
        assert (await auth.verify(pair.sign(sub="bob"))).user == "bob"  # the only key that fits
        assert not auth.can_issue


async def test_keys_are_fetched_once_and_kept(
    server: KeyServer, make_auth: MakeAuth, ec_pair: Pair, clock: Clock
) -> None:
    auth = make_auth(jwks_cache=300)
    for _ in range(3):
        await auth.verify(ec_pair.sign("k1"))
        clock.now += 99
    assert server.requests == 1
    clock.now += 3
    await auth.verify(ec_pair.sign("k1"))
    assert server.requests == 2


async def test_concurrent_verifications_share_one_fetch(
    server: KeyServer, make_auth: MakeAuth, ec_pair: Pair
) -> None:
    auth = make_auth()
    verified = []

    async def verify(user: str) -> None:
        verified.append((await auth.verify(ec_pair.sign("k1", sub=user))).user)

    server.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(verify, f"u{number}")
        await server.waiting.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert verified == []
        server.gate.set()
    assert len(verified) == 20
    assert server.requests == 1


async def test_a_fetch_that_fails_is_shared_too(
    server: KeyServer, make_auth: MakeAuth, ec_pair: Pair, clock: Clock
) -> None:
    auth = make_auth()
    server.status = "503 Busy"
    codes = []

    async def verify() -> None:
        codes.append((await refusal(auth, ec_pair.sign("k1"))).code)

    server.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(verify)
        await server.waiting.wait()
        await trio.testing.wait_all_tasks_blocked()
        clock.now += 4  # it took longer than the pause before the next try
        server.gate.set()
    assert codes == [ErrorCode.TIMEOUT] * 20
    assert server.requests == 1


async def test_an_unknown_kid_fetches_the_rotated_keys(
    server: KeyServer, make_auth: MakeAuth, ec_pair: Pair, new_pair: Pair, clock: Clock
) -> None:
    auth = make_auth(jwks_min_refresh=10)
    await auth.verify(ec_pair.sign("k1"))
    server.offer(new_pair.jwk("k2"))
    clock.now += 10
    assert (await auth.verify(new_pair.sign("k2", sub="alice"))).user == "alice"
    assert server.requests == 2
    error = await refusal(auth, ec_pair.sign("k1"))  # withdrawn
    assert error.code is ErrorCode.UNAUTHENTICATED and "unknown key" in error.message


async def test_a_flood_of_unknown_kids_fetches_once_per_window(
    server: KeyServer, make_auth: MakeAuth, ec_pair: Pair, clock: Clock
) -> None:
    auth = make_auth(jwks_min_refresh=10, jwks_cache=1000)
    await auth.verify(ec_pair.sign("k1"))

    async def attack(number: int) -> None:
        error = await refusal(auth, ec_pair.sign(f"forged{number}"))
        assert error.code is ErrorCode.UNAUTHENTICATED

    for window in range(3):
        before = server.requests
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(attack, number)
        assert server.requests - before == (1 if window else 0)
        await auth.verify(ec_pair.sign("k1"))
        clock.now += 10


async def test_clients_that_go_away_cannot_cause_more_fetches(
    server: KeyServer, make_auth: MakeAuth, ec_pair: Pair, clock: Clock
) -> None:
    auth = make_auth(jwks_min_refresh=10)
    await auth.verify(ec_pair.sign("k1"))
    clock.now += 10
    server.gate, server.waiting = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(auth.verify, ec_pair.sign("unknown"))
        await server.waiting.wait()
        nursery.cancel_scope.cancel()
    server.gate.set()
    assert (await refusal(auth, ec_pair.sign("unknown"))).code is ErrorCode.TIMEOUT
    assert server.requests == 2


async def test_a_key_that_nobody_could_look_up_yet_is_not_called_bad(
    server: KeyServer, make_auth: MakeAuth, ec_pair: Pair, new_pair: Pair, clock: Clock
) -> None:
    auth = make_auth(jwks_min_refresh=10)
    await auth.verify(ec_pair.sign("k1"))
    clock.now += 10
    await refusal(auth, ec_pair.sign("made up"))
    server.offer(ec_pair.jwk("k1"), new_pair.jwk("k2"))
    clock.now += 1
    error = await refusal(auth, new_pair.sign("k2"))
    assert error.code is ErrorCode.TIMEOUT and error.retry_after == 9
    clock.now += error.retry_after
    await auth.verify(new_pair.sign("k2"))


@pytest.mark.parametrize("changes", [{"use": None}, {"alg": None}, {"kid": None}, {"key_ops": ["verify"]}])
async def test_sets_that_say_little_can_be_used(
    server: KeyServer, make_auth: MakeAuth, ec_pair: Pair, changes: dict[str, Any]
) -> None:
    server.offer({**ec_pair.jwk("k1"), **changes})
    await make_auth().verify(ec_pair.sign("k1"))


async def test_the_next_one_goes_on_when_the_first_fetch_is_abandoned(
    server: KeyServer, make_auth: MakeAuth, ec_pair: Pair
) -> None:
    auth = make_auth()
    server.gate = trio.Event()
    first = trio.CancelScope()
    users = []

    async def give_up() -> None:
        with first:
            await auth.verify(ec_pair.sign("k1"))

    async def wait() -> None:
        users.append((await auth.verify(ec_pair.sign("k1", sub="alice"))).user)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_up)
        await server.waiting.wait()
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        server.gate.set()
        first.cancel()
    assert first.cancelled_caught
    assert users == ["alice"]
    assert server.requests == 2


async def test_old_keys_work_while_the_server_is_down(
    server: KeyServer, make_auth: MakeAuth, ec_pair: Pair, clock: Clock
) -> None:
    auth = make_auth(jwks_cache=60, jwks_min_refresh=10)
    await auth.verify(ec_pair.sign("k1"))
    server.stop()
    for _ in range(10):
        clock.now += 61
        await auth.verify(ec_pair.sign("k1"))
    assert (await refusal(auth, ec_pair.sign("k2"))).code is ErrorCode.TIMEOUT


async def test_old_keys_do_at_once_while_someone_else_fetches(
    server: KeyServer, make_auth: MakeAuth, ec_pair: Pair, clock: Clock
) -> None:
    auth = make_auth(jwks_cache=60)
    await auth.verify(ec_pair.sign("k1"))
    clock.now += 61
    server.gate, server.waiting = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(auth.verify, ec_pair.sign("k1"))
        await server.waiting.wait()
        clock.now += 100  # long enough for another try, if nobody were at it
        with trio.fail_after(60):  # the gate is shut, so waiting for the fetch would end here
            assert (await auth.verify(ec_pair.sign("k1", sub="bob"))).user == "bob"
        server.gate.set()
    assert server.requests == 2


async def test_no_keys_yet_asks_to_come_again(
    server: KeyServer, make_auth: MakeAuth, ec_pair: Pair, clock: Clock
) -> None:
    auth = make_auth(jwks_min_refresh=10)
    server.status = "500 Broken"
    error = await refusal(auth, ec_pair.sign("k1"))
    assert error.code is ErrorCode.TIMEOUT
    assert error.retry_after is not None
    server.status = "200 OK"
    assert (await refusal(auth, ec_pair.sign("k1"))).code is ErrorCode.TIMEOUT
    assert server.requests == 1
    clock.now += error.retry_after
    await auth.verify(ec_pair.sign("k1"))


async def test_a_server_that_is_not_there(make_auth: MakeAuth, server: KeyServer, ec_pair: Pair) -> None:
    server.stop()
    assert (await refusal(make_auth(), ec_pair.sign("k1"))).code is ErrorCode.TIMEOUT


async def test_a_server_that_does_not_answer_is_given_up(
    server: KeyServer, make_auth: MakeAuth, ec_pair: Pair
) -> None:
    auth = make_auth(jwks_timeout=0.5)
    server.gate = trio.Event()
    with trio.fail_after(60):
        assert (await refusal(auth, ec_pair.sign("k1"))).code is ErrorCode.TIMEOUT
    assert server.requests == 1
    server.gate.set()


async def test_a_server_that_goes_on_and_on_is_given_up(
    server: KeyServer, make_auth: MakeAuth, ec_pair: Pair
) -> None:
    auth = make_auth(jwks_timeout=0.5)
    server.drip = 0.1
    with trio.fail_after(60):
        assert (await refusal(auth, ec_pair.sign("k1"))).code is ErrorCode.TIMEOUT
    assert (server.requests, server.delivered) == (1, 0)


@pytest.mark.parametrize("headers", ["", "Transfer-Encoding: chunked\r\n"])
async def test_a_huge_answer_is_given_up(
    server: KeyServer, make_auth: MakeAuth, ec_pair: Pair, headers: str
) -> None:
    server.headers = headers
    server.body = b" " * 64 * 2**20  # far more than the sockets on the way hold
    if headers:
        server.body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(server.body), server.body)
    assert (await refusal(make_auth(), ec_pair.sign("k1"))).code is ErrorCode.TIMEOUT
    assert (server.requests, server.delivered) == (1, 0)
    server.headers, server.body = "", b" " * jwks.MAX_BODY + server.body[:1]
    assert (await refusal(make_auth(), ec_pair.sign("k1"))).code is ErrorCode.TIMEOUT


async def test_a_compressed_answer_is_not_unpacked(
    server: KeyServer, make_auth: MakeAuth, ec_pair: Pair
) -> None:

    server.headers = "Content-Encoding: gzip\r\n"
    server.body = gzip.compress(server.body)
    assert (await refusal(make_auth(), ec_pair.sign("k1"))).code is ErrorCode.TIMEOUT


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"keys":5}', b'{"keys":["x"]}', b"\xff", b'{"keys":[]}', b"[" * 9000]
)
async def test_an_answer_that_is_no_key_set(
    server: KeyServer, make_auth: MakeAuth, ec_pair: Pair, body: bytes, clock: Clock
) -> None:
    auth = make_auth(jwks_cache=60)
    await auth.verify(ec_pair.sign("k1"))
    server.body = body
    clock.now += 61
    await auth.verify(ec_pair.sign("k1"))  # the keys that were there go on working
    assert server.requests == 2
    assert (await refusal(make_auth(), ec_pair.sign("k1"))).code is ErrorCode.TIMEOUT


async def test_a_redirect_is_not_followed(server: KeyServer, make_auth: MakeAuth, ec_pair: Pair) -> None:
    server.status = "302 Found"
    server.headers = f"Location: {server.url}\r\n"
    assert (await refusal(make_auth(), ec_pair.sign("k1"))).code is ErrorCode.TIMEOUT
    assert server.requests == 1


async def test_the_number_of_keys_is_bounded(server: KeyServer, make_auth: MakeAuth, ec_pair: Pair) -> None:
    server.offer(*(ec_pair.jwk(f"k{number}") for number in range(5)))
    auth = make_auth(jwks_max_keys=3)
    await auth.verify(ec_pair.sign("k2"))
    assert (await refusal(auth, ec_pair.sign("k3"))).code is ErrorCode.UNAUTHENTICATED


async def test_keys_that_cannot_be_used_are_passed_over(
    server: KeyServer, make_auth: MakeAuth, ec_pair: Pair, new_pair: Pair, rsa_pair: Pair
) -> None:
    private = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(new_pair.private))
    server.offer(
        rsa_pair.jwk("rsa"),
        new_pair.jwk("encryption", use="enc"),
        new_pair.jwk("other algorithm", alg="ES384"),
        {**private, "kid": "private"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"},
        {"kty": "EC", "crv": "P-256", "x": 5, "kid": "damaged"},
        {**new_pair.jwk(None), "kid": 7},
        new_pair.jwk("x" * (jwks.MAX_KID + 1)),
        {},
        ec_pair.jwk("k1", use="sig", alg="ES256"),
        new_pair.jwk("k1"),  # the first of a name counts
    )
    auth = make_auth()
    await auth.verify(ec_pair.sign("k1"))
    for kid in ("encryption", "other algorithm", "private", "x" * (jwks.MAX_KID + 1)):
        assert (await refusal(auth, new_pair.sign(kid))).code is ErrorCode.UNAUTHENTICATED
    assert (await refusal(auth, new_pair.sign("k1"))).message == "the token's signature does not match"


async def test_a_weak_key_is_passed_over(server: KeyServer, make_auth: MakeAuth, make_pair: MakePair) -> None:
    weak = make_pair("RS256", rsa.generate_private_key(65537, 1024))
    server.offer(weak.jwk("weak"))
    auth = make_auth(algorithm="RS256")
    with pytest.warns(InsecureKeyLengthWarning):
        token = weak.sign("weak")
    assert (await refusal(auth, token)).code is ErrorCode.TIMEOUT  # no usable key at all


async def test_a_token_without_kid_is_refused_where_several_keys_fit(
    server: KeyServer, make_auth: MakeAuth, ec_pair: Pair, new_pair: Pair, clock: Clock
) -> None:
    server.offer(ec_pair.jwk("k1"), new_pair.jwk("k2"))
    auth = make_auth()
    error = await refusal(auth, ec_pair.sign())
    assert error.code is ErrorCode.UNAUTHENTICATED and "no key (kid)" in error.message
    clock.now += 20
    await refusal(auth, ec_pair.sign())
    assert server.requests == 1


async def test_a_wrong_algorithm_causes_no_fetch(
    server: KeyServer, make_auth: MakeAuth, rsa_pair: Pair
) -> None:
    auth = make_auth()
    assert "wrong algorithm" in (await refusal(auth, rsa_pair.sign("k1"))).message
    assert "well-formed" in (await refusal(auth, "a.b.c")).message
    assert server.requests == 0


async def test_tokens_of_the_gateways_own_key_need_no_fetch(
    server: KeyServer, make_auth: MakeAuth, ec_pair: Pair, new_pair: Pair
) -> None:
    auth = make_auth(private_key_file=new_pair.private_file)
    assert auth.can_issue
    assert (await auth.verify(auth.issue(org="acme", user="own").token)).user == "own"
    assert server.requests == 0
    assert (await auth.verify(ec_pair.sign("k1", sub="theirs"))).user == "theirs"


async def test_the_server_must_prove_who_it_is(
    nursery: trio.Nursery, ec_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = KeyServer(context)
    await nursery.start(server.run)
    server.offer(ec_pair.jwk("k1"))
    settings = AuthSettings(algorithm="ES256", jwks_url=server.url)
    assert (await refusal(Authenticator(settings), ec_pair.sign("k1"))).code is ErrorCode.TIMEOUT
    assert server.requests == 0
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    await Authenticator(settings).verify(ec_pair.sign("k1"))
