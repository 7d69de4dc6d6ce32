"""With the cache or without it: the same answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ostiary.clock import ManualClock
from ostiary.errors import AccessError, IdentityInvalid
from ostiary.identity import FailureLimit, JwksUrl, RefreshSettings, build_authenticator
from ostiary.identity.binding import Possession
from ostiary.identity.cache import CachingVerifier
from ostiary.identity.jwt import BearerAuthenticator, IssuerRules, JwtVerifier
from ostiary.identity.keys import NO_KEYS, KeyReader, KeySet, VerificationKey
from ostiary.interfaces import Authenticator
from ostiary.models import Identity
from support.identity import (
    AUDIENCE,
    ISSUER,
    Issuer,
    KeyServer,
    SigningKey,
    b64,
    bearing,
    exchange,
    jwks,
    key_file,
    raw_server,
    settings,
)

KEYS = (SigningKey(algorithm="ES256"), SigningKey(id="k2", algorithm="ES256", material="second"))
READER = KeyReader(algorithms=["ES256"])
SETS = [NO_KEYS, READER.read(jwks(KEYS[0])), READER.read(jwks(KEYS[1])), READER.read(jwks(*KEYS))]


class ScriptedKeys:
    """A key store whose set the test changes; it counts how often a key was looked for."""

    def __init__(self) -> None:
        self.current: KeySet = SETS[3]
        self.asked = 0

    async def find(self, key_id: str) -> tuple[KeySet, VerificationKey | None]:
        self.asked += 1
        return self.current, self.current.keys.get(key_id)


class World:
    def __init__(self, capacity: int = 8) -> None:
        self.clock = ManualClock()
        self.keys = ScriptedKeys()
        rules = IssuerRules(settings=settings(JwksUrl(url="https://idp.test/"), algorithms=("ES256",)), keys=self.keys)
        verifier = JwtVerifier(issuers={ISSUER: rules}, clock=self.clock, failures=FailureLimit(clock=self.clock))
        self.cache = CachingVerifier(verifier=verifier, clock=self.clock, capacity=capacity)
        self.plain = BearerAuthenticator(tokens=verifier, possession=Possession())
        self.caching = BearerAuthenticator(tokens=self.cache, possession=Possession())

    def token(self, key: int = 0, **claims: Any) -> str:
        return Issuer(clock=self.clock, key=KEYS[key]).token(claims=claims)


async def outcome(authenticator: Authenticator, token: str) -> tuple[object, object]:
    try:
        return Identity, await authenticator.identify(bearing(token))
    except AccessError as refusal:
        return type(refusal), refusal.detail


async def test_a_token_is_verified_once() -> None:
    world = World()
    token = world.token()
    first = await world.caching.identify(bearing(token))
    assert await world.caching.identify(bearing(token)) is first
    assert world.keys.asked == 1


async def test_a_cached_token_is_refused_once_it_has_expired() -> None:
    """JWT-066: used at t0 with exp t0+2, and again at t0+5+leeway."""
    world = World()
    token = world.token(exp=int(world.clock.now()) + 2)
    assert (await world.caching.identify(bearing(token))).subject == "web"
    world.clock.advance(15)
    with pytest.raises(IdentityInvalid, match="expired"):
        await world.caching.identify(bearing(token))
    assert len(world.cache) == 0


@pytest.mark.parametrize("changed", [0, 2])
async def test_a_rotation_or_loss_of_keys_ends_cached_tokens(changed: int) -> None:
    world = World()
    token = world.token()
    await world.caching.identify(bearing(token))
    world.keys.current = SETS[changed]
    with pytest.raises(IdentityInvalid):
        await world.caching.identify(bearing(token))


async def test_failures_are_not_kept() -> None:
    world = World()
    token = world.token()
    world.keys.current = NO_KEYS
    assert await outcome(world.caching, token) == (IdentityInvalid, "key: the issuer's keys are not here")
    world.keys.current = SETS[3]
    assert (await world.caching.identify(bearing(token))).subject == "web"


async def test_bad_tokens_evict_nobody() -> None:
    world = World(capacity=2)
    good = world.token()
    await world.caching.identify(bearing(good))
    for index in range(20):
        await outcome(world.caching, world.token(aud=str(index)))
    await world.caching.identify(bearing(good))
    assert (len(world.cache), world.keys.asked) == (1, 1)


async def test_the_cache_is_bounded() -> None:
    world = World(capacity=4)
    for index in range(20):
        await world.caching.identify(bearing(world.token(jti=str(index))))
    assert len(world.cache) == 4


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("use"), st.integers(0, 5)),
        st.tuples(st.just("advance"), st.sampled_from([0.5, 1, 3, 9, 10, 40])),
        st.tuples(st.just("keys"), st.integers(0, 3)),
    ),
    max_size=30,
)


@hypothesis_settings(max_examples=60, deadline=None)
@given(steps=STEPS)
async def test_the_cache_answers_as_no_cache_does(steps: list[tuple[str, Any]]) -> None:
    """Over random tokens, clocks and key sets, with a cache small enough to evict."""
    world = World(capacity=2)
    now = int(world.clock.now())
    tokens = [
        world.token(),
        world.token(key=1),
        world.token(exp=now + 5),
        world.token(exp=now + 20, sub="other"),
        world.token(nbf=now + 15),
        world.token(aud="other"),
    ]
    for step, value in steps:
        if step == "advance":
            world.clock.advance(value)
        elif step == "keys":
            world.keys.current = SETS[value]
        else:
            assert await outcome(world.caching, tokens[value]) == await outcome(world.plain, tokens[value])


def _segment(value: Any) -> str:
    return b64(json.dumps(value).encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=6), children, max_size=3),
    max_leaves=8,
)
HEADER = st.fixed_dictionaries(
    {},
    optional={
        "alg": st.sampled_from(["ES256", "none", "HS256"]) | JSON,
        "kid": st.sampled_from(["k1", "k2", "zzz"]) | JSON,
        "typ": st.just("JWT") | JSON,
        "jku": st.just("https://evil.test/"),
        "crit": JSON,
    },
)
CLAIMS = st.fixed_dictionaries(
    {},
    optional={
        "iss": st.just(ISSUER) | JSON,
        "aud": st.just(AUDIENCE) | JSON,
        "sub": st.just("web") | JSON,
        "iat": st.just(1_790_000_000) | JSON,
        "exp": st.just(1_790_000_100) | JSON,
        "nbf": JSON,
        "jti": JSON,
    },
)
TOKENS = st.builds(
    lambda header, claims, signature: f"{_segment(header)}.{_segment(claims)}.{signature}".encode(),
    HEADER,
    CLAIMS,
    st.sampled_from(["AA", "A" * 86, "", "=", "A"]),
)
VALUES = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=60).map(lambda junk: b"Bearer " + junk),
    TOKENS.map(lambda token: b"Bearer " + token),
    st.tuples(st.sampled_from([b"bearer ", b"Bearer  ", b"Bearer\t", b"BEARER "]), TOKENS).map(b"".join),
)


@hypothesis_settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=VALUES)
async def test_whatever_is_in_authorization_it_is_an_identity_or_401(value: bytes) -> None:
    """No bytes raise anything else; none of these is signed, so none is an identity either."""
    world = World()
    with pytest.raises(AccessError) as caught:
        await world.caching.identify(exchange((b"authorization", value)))
    assert caught.value.status == 401


FOREIGN = st.builds(
    lambda header, claims, issuer: f"Bearer {_segment(header)}.{_segment({**claims, 'iss': issuer})}.AA".encode(),
    HEADER,
    CLAIMS,
    JSON | st.sampled_from(["https://idp.test/", "http://127.0.0.1/", "file:///etc/passwd"]),
)


@hypothesis_settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=st.binary(max_size=200) | FOREIGN)
async def test_no_bytes_in_authorization_cause_a_request_to_anywhere(value: bytes) -> None:
    """Against a real store and server, with an attempt due: not one fetch for what no issuer here could have sent."""
    async with due_store() as (authenticator, served, _):
        with pytest.raises(AccessError) as caught:
            await authenticator.identify(exchange((b"authorization", value)))
        assert (caught.value.status, served.requests) == (401, 1)


async def test_only_a_token_that_is_good_but_for_its_key_may_cause_a_fetch() -> None:
    async with due_store() as (authenticator, served, issuer):
        hostile = [
            issuer.token(header={"jku": "http://127.0.0.1/", "kid": "new"}),
            issuer.token(header={"kid": "new"}, claims={"iss": "http://127.0.0.1/"}),
            issuer.token(header={"kid": "new"}, claims={"aud": "other"}),
            issuer.token(header={"kid": "new"}, claims={"exp": 1}),
            issuer.token(header={"kid": "http://127.0.0.1/"}),
            issuer.token(header={"kid": "new", "alg": "HS256"}),
        ]
        for token in hostile:
            assert (await outcome(authenticator, token))[0] is IdentityInvalid
        assert served.requests == 1
        assert (await outcome(authenticator, issuer.token(header={"kid": "new"})))[0] is IdentityInvalid
        assert served.requests == 2


@asynccontextmanager
async def due_store() -> AsyncIterator[tuple[Authenticator, KeyServer, Issuer]]:
    """An authenticator that has fetched once, and may again."""
    clock = ManualClock()
    issuer = Issuer(clock=clock)
    served = KeyServer(jwks(issuer.key))
    async with raw_server(served) as server:
        origin = JwksUrl(url=f"http://127.0.0.1:{server.port}/jwks")
        built = build_authenticator([settings(origin)], clock=clock, refresh=RefreshSettings())
        await built.start()
        clock.advance(31)
        yield built, served, issuer
        await built.close()


async def test_a_listener_without_a_cache_and_one_with_it_agree(tmp_path: Path) -> None:
    clock = ManualClock()
    issuer = Issuer(clock=clock)
    origin = key_file(tmp_path, jwks(issuer.key))
    built = [build_authenticator([settings(origin)], clock=clock, cache_capacity=size) for size in (0, 100)]
    for each in built:
        await each.start()
    token = issuer.token(claims={"groups": ["a"]})
    found = [await each.identify(bearing(token)) for each in built for _ in range(2)]
    assert found == [found[0]] * 4
    for each in built:
        await each.close()
