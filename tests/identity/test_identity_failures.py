"""Invalid tokens are limited for each peer (SECURITY section 10)."""

from __future__ import annotations

from pathlib import Path

import pytest

from ostiary.clock import ManualClock
from ostiary.errors import IdentityInvalid, TooManyFailures
from ostiary.exchange import Exchange
from ostiary.identity import FailureLimit, build_authenticator
from support.identity import Issuer, SigningKey, bearing, jwks, key_file, settings

PEER = "192.0.2.7"


def coming_from(address: str, exchange: Exchange) -> Exchange:
    exchange.source_ip = address
    return exchange


async def test_who_sent_too_many_invalid_tokens_is_refused_unheard(
    tmp_path: Path, clock: ManualClock, issuer: Issuer
) -> None:
    """429 for that peer alone, for what is not proved already, and until some of its share has come back."""
    limit = FailureLimit(clock=clock, rate=1.0, burst=2)
    keys = key_file(tmp_path, jwks(SigningKey()))
    authenticator = build_authenticator([settings(keys)], clock=clock, failures=limit)
    await authenticator.start()
    known, fresh = issuer.token(), issuer.token(claims={"jti": "t-2"})
    forged = issuer.token(sign=lambda _: b"x" * 256)
    await authenticator.identify(coming_from(PEER, bearing(known)))

    for _ in range(2):
        with pytest.raises(IdentityInvalid):
            await authenticator.identify(coming_from(PEER, bearing(forged)))
    for token in (forged, fresh):
        with pytest.raises(TooManyFailures) as refused:
            await authenticator.identify(coming_from(PEER, bearing(token)))
        assert (refused.value.status, refused.value.retry_after) == (429, 1)

    await authenticator.identify(coming_from(PEER, bearing(known)))  # proved before: no look is needed
    await authenticator.identify(coming_from("192.0.2.8", bearing(fresh)))
    clock.advance(1.0)
    await authenticator.identify(coming_from(PEER, bearing(issuer.token(claims={"jti": "t-3"}))))
    await authenticator.identify(coming_from(PEER, bearing(issuer.token(claims={"jti": "t-4"}))))
    with pytest.raises(IdentityInvalid):
        await authenticator.identify(coming_from(PEER, bearing(forged)))
    with pytest.raises(TooManyFailures):
        await authenticator.identify(coming_from(PEER, bearing(forged)))
    await authenticator.close()


async def test_a_token_is_limited_without_a_cache_too(tmp_path: Path, clock: ManualClock) -> None:
    limit = FailureLimit(clock=clock, rate=1.0, burst=1)
    keys = key_file(tmp_path, jwks(SigningKey()))
    authenticator = build_authenticator([settings(keys)], clock=clock, failures=limit, cache_capacity=0)
    await authenticator.start()
    with pytest.raises(IdentityInvalid):
        await authenticator.identify(bearing("nonsense"))
    with pytest.raises(TooManyFailures):
        await authenticator.identify(bearing("nonsense"))
    await authenticator.close()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.7", "192.0.2.8", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:0:8000::", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("::zz", "::zy", False),
    ],
)
def test_a_peer_is_an_address_or_the_network_of_an_ipv6_one(
    clock: ManualClock, one: str, other: str, same: bool
) -> None:
    limit = FailureLimit(clock=clock, burst=1)
    limit.count(one)
    if same:
        with pytest.raises(TooManyFailures):
            limit.check(other)
    else:
        limit.check(other)


def test_what_is_remembered_of_peers_is_bounded(clock: ManualClock) -> None:
    limit = FailureLimit(clock=clock, burst=1, peers=2)
    for number in range(3):
        limit.count(f"192.0.2.{number}")
    limit.check("192.0.2.0")
    for number in (1, 2):
        with pytest.raises(TooManyFailures):
            limit.check(f"192.0.2.{number}")


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1), (1.0, 0)])
def test_a_limit_that_lets_nobody_fail_is_no_setting(clock: ManualClock, rate: float, burst: int) -> None:
    with pytest.raises(ValueError, match="above 0"):
        FailureLimit(clock=clock, rate=rate, burst=burst)
