"""The keys of an issuer over real HTTP: rotation, outage, floods, and how often the issuer is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from ostiary.clock import ManualClock, SystemClock
from ostiary.errors import IdentityInvalid
from ostiary.identity import JwksUrl, ListenerAuthenticator, RefreshSettings, build_authenticator
from support.identity import (
    Issuer,
    KeyServer,
    RawServer,
    SigningKey,
    answer,
    bearing,
    jwks,
    key_file,
    raw_server,
    settings,
)

REFRESH = RefreshSettings(deadline=10, wait=10)
SOON = 5.0
"""Seconds: far less than what hangs in these tests would take, far more than a busy machine needs."""
ROTATED = SigningKey(id="k2", material="second")


@asynccontextmanager
async def keeping(
    served: KeyServer, clock: Any, refresh: RefreshSettings = REFRESH
) -> AsyncIterator[tuple[ListenerAuthenticator, RawServer]]:
    async with raw_server(served) as server:
        url = JwksUrl(url=f"http://127.0.0.1:{server.port}/jwks")
        built = build_authenticator([settings(url)], clock=clock, refresh=refresh)
        await built.start()
        try:
            yield built, server
        finally:
            await built.close()


def health(authenticator: ListenerAuthenticator) -> dict[str, Any]:
    (facts,) = authenticator.health()
    return facts.document()


async def invalid(authenticator: ListenerAuthenticator, token: str) -> str:
    with pytest.raises(IdentityInvalid) as caught:
        await authenticator.identify(bearing(token))
    return caught.value.detail


async def test_keys_served_over_http_are_believed(httpserver: HTTPServer, clock: ManualClock, issuer: Issuer) -> None:
    httpserver.expect_request("/jwks", method="GET").respond_with_data(jwks(issuer.key))
    built = build_authenticator([settings(JwksUrl(url=httpserver.url_for("/jwks")))], clock=clock)
    await built.start()
    assert (await built.identify(bearing(issuer.token()))).subject == "web"
    assert health(built)["ready"]
    await built.close()
    ((request, _),) = httpserver.log
    assert {name: request.headers.get(name) for name in ("Accept-Encoding", "Cookie", "Authorization")} == {
        "Accept-Encoding": "identity",
        "Cookie": None,
        "Authorization": None,
    }


async def test_health_facts(clock: ManualClock, issuer: Issuer) -> None:
    async with keeping(KeyServer(jwks(issuer.key, {})), clock) as (built, _):
        clock.advance(7)
        assert health(built) == {
            "issuer": "https://idp.test",
            "ready": True,
            "keys": 1,
            "ignored": 1,
            "generation": 1,
            "attempts": 1,
            "age": 7.0,
            "failure": None,
        }


async def test_a_rotated_key_is_found_by_the_request_that_brings_it(clock: ManualClock, issuer: Issuer) -> None:
    served = KeyServer(jwks(issuer.key))
    async with keeping(served, clock) as (built, _):
        served.document = jwks(ROTATED)
        clock.advance(31)
        token = Issuer(clock=clock, key=ROTATED).token()
        assert (await built.identify(bearing(token))).subject == "web"
        assert await invalid(built, issuer.token()) == "key: unknown kid"
        assert health(built)["generation"] == 2


async def test_inside_the_cool_down_an_unknown_key_is_refused_at_once(clock: ManualClock, issuer: Issuer) -> None:
    served = KeyServer(jwks(issuer.key))
    async with keeping(served, clock) as (built, _):
        served.document = jwks(ROTATED)
        served.delay = 60
        clock.advance(29)
        async with asyncio.timeout(SOON):
            token = Issuer(clock=clock, key=ROTATED).token()
            assert await invalid(built, token) == "key: unknown kid"
        assert served.requests == 1


async def test_an_unknown_key_seen_in_the_cool_down_brings_the_next_refresh_forward(clock: ManualClock) -> None:
    """No request is needed after it: the background finds the rotated key as soon as it may ask."""
    key = Issuer(clock=clock, key=ROTATED)
    served = KeyServer(jwks(SigningKey()))
    async with keeping(served, clock, RefreshSettings(interval=600, cooldown=0.1)) as (built, _):
        served.document = jwks(ROTATED)
        assert await invalid(built, key.token()) == "key: unknown kid"
        clock.advance(1)
        await until(lambda: health(built)["generation"] == 2)
        assert served.requests == 2
        assert (await built.identify(bearing(key.token()))).subject == "web"


async def until(condition: Any) -> None:
    async with asyncio.timeout(2 * SOON):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in the product, which tells no test
            await asyncio.sleep(0.01)


async def test_a_flood_of_unknown_keys_costs_one_fetch_and_harms_nobody(clock: ManualClock, issuer: Issuer) -> None:
    """JWT-059: one attempt per cool-down, counted at the server; good tokens keep working."""
    served = KeyServer(jwks(issuer.key))
    async with keeping(served, clock) as (built, _):
        clock.advance(31)
        good = issuer.token()
        for round_ in range(10):
            flood = [issuer.token(header={"kid": f"x{round_}-{index}"}, sign=lambda _: b"x") for index in range(100)]
            refused = await asyncio.gather(*(invalid(built, token) for token in flood))
            assert set(refused) == {"key: unknown kid"}
            assert (await built.identify(bearing(good))).subject == "web"
        assert served.requests == 2


async def test_those_who_ask_together_share_one_attempt(clock: ManualClock, issuer: Issuer) -> None:
    served = KeyServer(jwks(issuer.key))
    async with keeping(served, clock) as (built, _):
        served.document, served.delay = jwks(ROTATED), 0.05
        clock.advance(31)
        key = Issuer(clock=clock, key=ROTATED)
        tokens = [key.token(claims={"jti": str(index)}) for index in range(50)]
        found = await asyncio.gather(*(built.identify(bearing(token)) for token in tokens))
        assert {identity.subject for identity in found} == {"web"}
        assert served.requests == 2


async def test_a_key_the_issuer_does_not_have_is_not_asked_for_again(clock: ManualClock, issuer: Issuer) -> None:
    served = KeyServer(jwks(issuer.key))
    async with keeping(served, clock) as (built, _):
        token = issuer.token(header={"kid": "gone"})
        clock.advance(31)
        assert await invalid(built, token) == "key: unknown kid"
        clock.advance(31)
        assert await invalid(built, token) == "key: unknown kid"
        assert served.requests == 2
        clock.advance(30)
        assert await invalid(built, token) == "key: unknown kid"
        assert served.requests == 3


async def test_the_cool_down_counts_attempts_that_failed(clock: ManualClock, issuer: Issuer) -> None:
    served = KeyServer(b"")
    served.raw = answer(b"", status="500 No")
    async with keeping(served, clock) as (built, _):
        for _ in range(20):
            assert await invalid(built, issuer.token()) == "key: the issuer's keys are not here"
        assert (served.requests, health(built)["ready"], health(built)["failure"]) == (1, False, "status")
        clock.advance(30)
        served.raw, served.document = None, jwks(issuer.key)
        assert (await built.identify(bearing(issuer.token()))).subject == "web"
        assert (served.requests, health(built)["ready"], health(built)["failure"]) == (2, True, None)


BAD_ANSWERS = [
    pytest.param(answer(b"", status="500 No"), "status", id="JWT-061 500"),
    pytest.param(answer(b'{"keys": []}'), "no-usable-key", id="JWT-061 empty set"),
    pytest.param(answer(jwks(SigningKey().jwk(use="enc"))), "no-usable-key", id="JWT-064 only an encryption key"),
    pytest.param(answer(b"<html>"), "malformed", id="garbage"),
    pytest.param(answer(jwks(SigningKey()), status="404 No"), "status", id="404 with keys"),
    pytest.param(answer(jwks(SigningKey()), status="201 Made"), "status", id="201"),
    pytest.param(
        answer(b"", status="302 Found", headers=b"location: http://169.254.169.254/\r\n"), "redirect", id="redirect"
    ),
    pytest.param(answer(jwks(SigningKey()), headers=b"content-encoding: gzip\r\n"), "content-coding", id="gzip"),
    pytest.param(answer(b" " * (256 * 1024 + 1)), "oversized", id="oversized"),
    pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{", "unreachable", id="cut off"),
    pytest.param(b"nonsense\r\n\r\n", "unreachable", id="not HTTP"),
    pytest.param(b"", "unreachable", id="closed at once"),
]


@pytest.mark.parametrize(("raw", "cause"), BAD_ANSWERS)
async def test_the_last_good_set_outlives_a_bad_answer(
    clock: ManualClock, issuer: Issuer, raw: bytes, cause: str
) -> None:
    served = KeyServer(jwks(issuer.key))
    async with keeping(served, clock) as (built, _):
        served.raw = raw
        clock.advance(31)
        assert await invalid(built, issuer.token(header={"kid": "new"})) == "key: unknown kid"
        assert (served.requests, health(built)["failure"]) == (2, cause)
        assert (await built.identify(bearing(issuer.token()))).subject == "web"
        encryption = SigningKey(material="enc")
        assert await invalid(built, issuer.token(sign=encryption.sign)) == "signature"


async def test_the_last_good_set_is_dropped_at_its_hard_age(clock: ManualClock, issuer: Issuer) -> None:
    served = KeyServer(jwks(issuer.key))
    async with keeping(served, clock) as (built, _):
        served.raw = b""
        clock.advance(86_399)
        assert (await built.identify(bearing(issuer.token()))).subject == "web"
        token = issuer.token()
        assert (await built.identify(bearing(token))).subject == "web"
        clock.advance(1)
        assert not health(built)["ready"]
        assert await invalid(built, token) == "key: the issuer's keys are not here"


async def test_a_server_that_hangs_holds_nobody_whose_key_is_known(clock: ManualClock, issuer: Issuer) -> None:
    served = KeyServer(jwks(issuer.key))
    async with keeping(served, clock, RefreshSettings(deadline=60, wait=0.3)) as (built, _):
        await until(lambda: health(built)["ready"])
        served.delay = 60
        clock.advance(31)
        waiting = asyncio.create_task(invalid(built, issuer.token(header={"kid": "new"})))
        await until(lambda: served.requests == 2)
        async with asyncio.timeout(SOON):
            assert (await built.identify(bearing(issuer.token()))).subject == "web"
            assert await waiting == "key: unknown kid"  # after `wait`, long before the server lets go


async def test_no_more_requests_wait_than_the_bound(clock: ManualClock, issuer: Issuer) -> None:
    served = KeyServer(jwks(issuer.key))
    async with keeping(served, clock, RefreshSettings(deadline=60, wait=60, max_waiting=2)) as (built, _):
        served.delay = 60
        clock.advance(31)
        first = [asyncio.create_task(invalid(built, issuer.token(header={"kid": f"n{n}"}))) for n in range(2)]
        await until(lambda: served.requests == 2)
        async with asyncio.timeout(SOON):
            assert await invalid(built, issuer.token(header={"kid": "third"})) == "key: unknown kid"
        assert not any(task.done() for task in first)
        for task in first:
            task.cancel()
        await asyncio.gather(*first, return_exceptions=True)


async def test_a_trickling_server_meets_one_deadline(clock: ManualClock) -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with raw_server(trickle) as server:
        url = JwksUrl(url=f"http://127.0.0.1:{server.port}/")
        refresh = RefreshSettings(deadline=0.2, wait=10)
        built = build_authenticator([settings(url)], clock=clock, refresh=refresh)
        await built.start()
        assert health(built)["failure"] == "timeout"
        await built.close()


async def test_keys_are_refreshed_in_the_background_ahead_of_need(issuer: Issuer) -> None:
    served = KeyServer(jwks(SigningKey()))
    clock = SystemClock()
    refresh = RefreshSettings(interval=0.1, cooldown=0.05, max_age=60)
    async with keeping(served, clock, refresh) as (built, _):
        await until(lambda: served.requests >= 3)
        assert health(built)["generation"] == 1
        served.document = jwks(ROTATED)
        await until(lambda: health(built)["generation"] == 2)


async def test_a_refresh_that_failed_is_tried_again_after_the_cool_down(issuer: Issuer) -> None:
    served = KeyServer(jwks(SigningKey()))
    served.raw = b""
    async with keeping(served, SystemClock(), RefreshSettings(interval=600, cooldown=0.1)) as (built, _):
        assert not health(built)["ready"]
        served.raw = None
        await until(lambda: health(built)["ready"])
        assert served.requests >= 2


async def test_an_issuer_that_hangs_delays_the_start_by_no_more_than_the_wait(clock: ManualClock) -> None:
    served = KeyServer(b"")
    served.delay = 60
    async with asyncio.timeout(SOON), keeping(served, clock, RefreshSettings(deadline=60, wait=0.1)) as (built, _):
        assert not health(built)["ready"]


async def test_nothing_is_fetched_before_the_start_or_after_the_close(clock: ManualClock, issuer: Issuer) -> None:
    served = KeyServer(jwks(issuer.key))
    async with raw_server(served) as server:
        url = JwksUrl(url=f"http://127.0.0.1:{server.port}/")
        built = build_authenticator([settings(url)], clock=clock, refresh=REFRESH)
        assert await invalid(built, issuer.token()) == "key: the issuer's keys are not here"
        assert served.requests == 0
        await built.start()
        await built.close()
        clock.advance(60)
        assert await invalid(built, issuer.token(header={"kid": "new"})) == "key: unknown kid"
        assert served.requests == 1


async def test_a_key_file_is_read_again_when_it_changes(tmp_path: Path, issuer: Issuer) -> None:
    clock = SystemClock()
    origin = key_file(tmp_path, jwks(SigningKey()))
    refresh = RefreshSettings(interval=0.05, cooldown=0.02, max_age=60)
    built = build_authenticator([settings(origin)], clock=clock, refresh=refresh)
    await built.start()
    rotated = Issuer(clock=clock, key=ROTATED)
    origin.path.write_bytes(b"half writ")
    await until(lambda: health(built)["failure"] == "malformed")
    assert health(built)["ready"]
    origin.path.unlink()
    await until(lambda: health(built)["failure"] == "file")
    assert health(built)["ready"]
    origin.path.write_bytes(jwks(ROTATED))
    await until(lambda: health(built)["generation"] == 2)
    assert (await built.identify(bearing(rotated.token()))).subject == "web"
    await built.close()


async def test_an_issuer_is_verified_with_its_own_keys_only(tmp_path: Path, clock: ManualClock) -> None:
    """CACHE-003 and its like: the same subject and key id, but another issuer's key."""
    other_key = SigningKey(material="other issuer")
    one = Issuer(clock=clock)
    two = Issuer(clock=clock, issuer="https://other.test", key=other_key)
    first, second = tmp_path / "one", tmp_path / "two"
    first.mkdir()
    second.mkdir()
    built = build_authenticator(
        [
            settings(key_file(first, jwks(one.key))),
            settings(key_file(second, jwks(two.key)), issuer="https://other.test", claims=("scope",)),
        ],
        clock=clock,
    )
    await built.start()
    claims = {"groups": ["a"], "scope": "s"}
    found = [await built.identify(bearing(maker.token(claims=claims))) for maker in (one, two)]
    assert [(identity.issuer, identity.claims) for identity in found] == [
        ("https://idp.test", {"groups": ["a"]}),
        ("https://other.test", {"scope": "s"}),
    ]
    assert await invalid(built, one.token(sign=two.key.sign)) == "signature"
    assert await invalid(built, two.token(sign=one.key.sign)) == "signature"
    await built.close()
