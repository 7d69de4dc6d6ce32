"""Fetching the proxy's keys: over real HTTP, once for all who wait, seldom, and never more than was asked for."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from ostiary.clock import ManualClock
from ostiary.credential import SigningKey, public_jwks
from ostiary.verify import KeySet, RemoteKeys, VerificationUnavailable

PATH = "/.well-known/jwks.json"


class Jwks:
    """A JWKS endpoint that can be made to misbehave, and counts."""

    def __init__(self, server: HTTPServer, *keys: SigningKey) -> None:
        self.body = public_jwks([key.public for key in keys])
        self.status = 200
        self.headers: dict[str, str] = {}
        self.hold = threading.Event()
        self.hold.set()
        self.requests: list[Request] = []
        self.url = server.url_for(PATH)
        server.expect_request(PATH).respond_with_handler(self._answer)

    def _answer(self, request: Request) -> Response:
        self.requests.append(request)
        self.hold.wait(5)
        return Response(self.body, self.status, self.headers)


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.generate("EdDSA")


@pytest.fixture
def jwks(httpserver: HTTPServer, key: SigningKey) -> Jwks:
    return Jwks(httpserver, key)


async def test_keys_are_fetched_when_first_needed_and_kept(jwks: Jwks, key: SigningKey) -> None:
    keys = RemoteKeys(jwks.url, host="ostiary.localhost", clock=ManualClock())
    assert jwks.requests == []
    for _ in range(3):
        found = await keys.key(key.id)
        assert found is not None
        assert found.verifies(b"message", key.sign(b"message"))
    (request,) = jwks.requests
    assert request.headers["host"] == "ostiary.localhost"
    assert request.headers["accept-encoding"] == "identity"
    assert {"authorization", "cookie"}.isdisjoint(name.lower() for name, _ in request.headers)


async def test_many_that_wait_share_one_fetch(jwks: Jwks, key: SigningKey) -> None:
    keys = RemoteKeys(jwks.url, clock=ManualClock())
    jwks.hold.clear()
    waiting = [asyncio.create_task(keys.key(key.id)) for _ in range(50)]
    await asyncio.sleep(0.05)
    waiting[0].cancel()  # who began it may go away: the others still get their keys
    await asyncio.sleep(0.05)
    jwks.hold.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert all(answer is not None and not isinstance(answer, BaseException) for answer in found[1:])
    assert len(jwks.requests) == 1


async def test_an_unknown_key_is_looked_for_once_in_a_while(jwks: Jwks, key: SigningKey) -> None:
    clock = ManualClock()
    keys = RemoteKeys(jwks.url, clock=clock, cooldown=30)
    assert await keys.key(key.id)
    following = SigningKey.generate("ES256")
    jwks.body = public_jwks([key.public, following.public])
    for _ in range(20):
        assert await keys.key(following.id) is None
    assert len(jwks.requests) == 1, "tokens with invented key ids cost nothing"
    clock.advance(30)
    assert await keys.key(following.id)
    assert len(jwks.requests) == 2


async def test_an_old_set_is_renewed_while_it_serves(jwks: Jwks, key: SigningKey) -> None:
    clock = ManualClock()
    keys = RemoteKeys(jwks.url, clock=clock, refresh_after=300)
    assert await keys.key(key.id)
    clock.advance(300)
    jwks.body = public_jwks([SigningKey.generate("EdDSA").public])
    jwks.hold.clear()
    assert await keys.key(key.id), "nobody waits for what could be done before"
    jwks.hold.set()
    for _ in range(200):
        if await keys.key(key.id) is None:
            break
        await asyncio.sleep(0.01)
    assert await keys.key(key.id) is None, "a key that is taken away stops being one"
    assert len(jwks.requests) == 2


async def test_a_set_that_nobody_renewed_for_long_is_renewed_first(jwks: Jwks, key: SigningKey) -> None:
    """After a quiet night a key that was taken away meanwhile must not work one more time."""
    clock = ManualClock()
    keys = RemoteKeys(jwks.url, clock=clock, refresh_after=300)
    assert await keys.key(key.id)
    clock.advance(600)
    jwks.body = public_jwks([SigningKey.generate("EdDSA").public])
    assert await keys.key(key.id) is None
    assert len(jwks.requests) == 2


async def test_the_last_good_set_outlives_failures_but_not_its_age(jwks: Jwks, key: SigningKey) -> None:
    clock = ManualClock()
    keys = RemoteKeys(jwks.url, clock=clock, refresh_after=300, max_age=1000)
    assert await keys.key(key.id)
    jwks.status = 500
    clock.advance(999)
    assert await keys.key(key.id)
    assert await keys.key("unknown") is None
    clock.advance(1)
    with pytest.raises(VerificationUnavailable):
        await keys.key(key.id)
    jwks.status = 200
    clock.advance(30)
    assert await keys.key(key.id)
    await keys.aclose()


async def test_attempts_are_spaced_whatever_becomes_of_them(jwks: Jwks, key: SigningKey) -> None:
    clock = ManualClock()
    keys = RemoteKeys(jwks.url, clock=clock, cooldown=30)
    jwks.status = 503
    attempts: list[int] = []
    for _ in range(100):
        with pytest.raises(VerificationUnavailable):
            await keys.key(key.id)
        attempts.append(len(jwks.requests))
        clock.advance(1)
    seconds = [second for second, count in enumerate(attempts) if count > (attempts[second - 1] if second else 0)]
    assert seconds == [0, 1, 3, 7, 15, 31, 61, 91]


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (404, {}, None),
        (204, {}, b""),
        (302, {"location": "/elsewhere"}, None),
        (200, {}, b"{}"),
        (200, {}, b'{"keys": {}}'),
        (200, {}, b"[" * 60_000),
        (200, {}, b'{"keys": []}' + b" " * 65_536),
        (200, {"content-encoding": "gzip"}, b"\x1f\x8b"),
    ],
    ids=["missing", "empty", "redirect", "no keys", "keys no list", "deep", "large", "compressed"],
)
async def test_what_is_no_jwks_is_no_keys(
    httpserver: HTTPServer, jwks: Jwks, key: SigningKey, status: int, headers: dict[str, str], body: bytes | None
) -> None:
    elsewhere: list[Request] = []
    httpserver.expect_request("/elsewhere").respond_with_handler(
        lambda request: elsewhere.append(request) or Response(jwks.body)
    )  # type: ignore[func-returns-value]
    jwks.status, jwks.headers = status, headers
    jwks.body = jwks.body if body is None else body
    with pytest.raises(VerificationUnavailable):
        await RemoteKeys(jwks.url, clock=ManualClock()).key(key.id)
    assert len(jwks.requests) == 1
    assert elsewhere == []


async def test_a_slow_answer_is_given_up(jwks: Jwks, key: SigningKey) -> None:
    jwks.hold.clear()
    with pytest.raises(VerificationUnavailable):
        await RemoteKeys(jwks.url, clock=ManualClock(), timeout=0.1).key(key.id)
    jwks.hold.set()


async def test_nobody_there_is_no_keys(unused_tcp_port: int) -> None:
    with pytest.raises(VerificationUnavailable):
        await RemoteKeys(f"http://127.0.0.1:{unused_tcp_port}/jwks", clock=ManualClock()).key("k")


async def test_the_environment_names_no_proxy_for_this(
    jwks: Jwks, key: SigningKey, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_tcp_port}")
    assert await RemoteKeys(jwks.url, clock=ManualClock()).key(key.id)


async def test_closing_ends_the_fetch_under_way(jwks: Jwks, key: SigningKey) -> None:
    keys = RemoteKeys(jwks.url, clock=ManualClock())
    jwks.hold.clear()
    waiting = asyncio.create_task(keys.key(key.id))
    await asyncio.sleep(0.05)
    await keys.aclose()
    jwks.hold.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await RemoteKeys(jwks.url).aclose()


@pytest.mark.parametrize(
    "url",
    [
        "http://ostiary.test/jwks",
        "http://ostiary.localhost/jwks",
        "http://10.0.0.1/jwks",
        "http://169.254.169.254/latest",
        "http://127.0.0.1.evil.test/jwks",
        "http://user:password@127.0.0.1/jwks",
        "https://ostiary.test/jwks#fragment",
        "file:///etc/passwd",
        "ftp://127.0.0.1/jwks",
        "https:///jwks",
        "/jwks",
        "",
    ],
)
def test_keys_travel_over_tls_or_not_at_all(url: str) -> None:
    with pytest.raises(ValueError, match=r"address of a JWKS|over https"):
        RemoteKeys(url)


@pytest.mark.parametrize(
    "url", ["https://ostiary.test/jwks", "http://127.0.0.1:8080/j", "http://[::1]/j", "http://localhost/j"]
)
def test_these_may_be_fetched(url: str) -> None:
    RemoteKeys(url)


PUBLIC = SigningKey.generate("ES256").public.document()
ED = SigningKey.generate("EdDSA").public.document()


@pytest.mark.parametrize(
    "entry",
    [
        "text",
        {**PUBLIC, "kid": None},
        {**PUBLIC, "kid": ["k"]},
        {**PUBLIC, "alg": "ES384"},
        {**PUBLIC, "alg": "HS256"},
        {**PUBLIC, "use": "enc"},
        {**PUBLIC, "kty": "RSA"},
        {**PUBLIC, "kty": ["EC"]},
        {**PUBLIC, "crv": "P-384"},
        {**PUBLIC, "crv": "Ed25519"},
        {**PUBLIC, "x": PUBLIC["y"], "y": PUBLIC["x"]},
        {**PUBLIC, "x": 1},
        {**PUBLIC, "d": "A" * 43},
        {**ED, "d": "A" * 43},
        {**ED, "crv": "X25519"},
        {"kty": "oct", "k": "AAAA", "kid": "k", "alg": "HS256"},
    ],
    ids=range(16),
)
def test_a_key_that_cannot_be_the_proxys_is_passed_over(entry: Any) -> None:
    keys = KeySet.parse(json.dumps({"keys": [entry, ED | {"kid": "good"}]}))
    assert keys.get("good") is not None
    ids = {PUBLIC["kid"], ED["kid"], "k"}
    assert [key_id for key_id in ids if keys.get(key_id)] == []


def test_two_keys_with_one_id_are_no_jwks() -> None:
    with pytest.raises(ValueError, match="two keys"):
        KeySet.parse(json.dumps({"keys": [PUBLIC, ED | {"kid": PUBLIC["kid"]}]}))
    with pytest.raises(ValueError, match="not a JWKS"):
        KeySet.parse('{"keys": [], "keys": []}')
    with pytest.raises(ValueError, match="not a JWKS"):
        KeySet.parse(json.dumps({"keys": [ED | {"kid": str(n)} for n in range(101)]}))
