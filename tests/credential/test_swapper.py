"""Which strategy a service has, and when a credential is handed out again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ostiary.clock import ManualClock
from ostiary.credential import CachingSwapper, SigningKey, Swapper
from ostiary.errors import CredentialUnavailable
from support.credential import NOW, Catalog, Facts, access_request, allow, documents, swapper, token_of

KEY = SigningKey.generate("EdDSA")
EVERYWHERE = Catalog(
    {
        (service, endpoint): Facts(method, "/orders/{order_id}")
        for service in ("orders", "billing")
        for endpoint, method in (("get-order", "GET"), ("get-other", "GET"), ("head-order", "HEAD"))
    }
)


def caching(clock: ManualClock, *, lifetime: int = 300, capacity: int = 100) -> CachingSwapper:
    return CachingSwapper(
        swapper(KEY, clock=clock, lifetime=lifetime, catalog=EVERYWHERE), clock=clock, capacity=capacity
    )


async def test_a_service_without_a_strategy_gets_nothing() -> None:
    registry = Swapper({"orders": swapper(KEY)})
    assert (await registry.swap(access_request(), allow())).id
    with pytest.raises(CredentialUnavailable, match="'billing' has no credential strategy"):
        await registry.swap(access_request(service="billing"), allow(service="billing"))
    with pytest.raises(CredentialUnavailable):
        await Swapper({}).swap(access_request(), allow())


async def test_it_is_reused_until_half_of_its_life() -> None:
    clock = ManualClock(NOW)
    cache = caching(clock)
    first = await cache.swap(access_request(), allow())
    clock.advance(29.99)
    assert await cache.swap(access_request(path="/orders/43", query="x=1"), allow()) is first, "other target, same key"
    clock.advance(0.01)
    second = await cache.swap(access_request(), allow())
    assert second.id != first.id
    assert second.expires_at == NOW + 30 + 60
    assert await cache.swap(access_request(), allow()) is second


@pytest.mark.parametrize(
    ("request_", "decision"),
    [
        ({"issuer": "https://other.test"}, {}),
        ({"subject": "ann"}, {}),
        ({}, {"caller": "support"}),
        ({"service": "billing"}, {"service": "billing"}),
        ({}, {"endpoint": "get-other"}),
        ({"method": "HEAD"}, {"endpoint": "head-order"}),
        ({}, {"permission": "web/orders/get-order/11111111"}),
        ({}, {"permission": None, "grant": "g-1"}),
        ({}, {"grant": "g-1"}),
        ({}, {"lifetime": 59}),
        ({}, {"revision": "2-bb"}),
        ({"token_ends": NOW + 59}, {}),
        ({}, {"expires_at": NOW + 59}),
        ({}, {"per_call": True}),
    ],
    ids=lambda value: ",".join(value) or "-",
)
async def test_it_is_reused_for_nothing_else(request_: dict[str, Any], decision: dict[str, Any]) -> None:
    """One part of the key differs, or the request at hand would be outlived: another credential, either way round."""
    for this, that in ((({}, {}), (request_, decision)), ((request_, decision), ({}, {}))):
        cache = caching(ManualClock(NOW))
        first = await cache.swap(access_request(**this[0]), allow(**this[1]))
        second = await cache.swap(access_request(**that[0]), allow(**that[1]))
        shorter = "token_ends" in this[0] or "expires_at" in this[1]
        assert (second.id == first.id) is shorter, "only what ends earlier serves a request that may last longer"
        claims = documents(token_of(second))[1]
        assert claims["sub_id"]["iss"] == that[0].get("issuer", "https://idp.test")
        assert claims["exp"] <= min(that[0].get("token_ends", NOW + 60), that[1].get("expires_at", NOW + 60))


async def test_what_would_outlive_the_token_at_hand_is_not_handed_out() -> None:
    cache = caching(ManualClock(NOW))
    long = await cache.swap(access_request(token_ends=NOW + 3600), allow())
    short = await cache.swap(access_request(token_ends=NOW + 10), allow())
    assert (long.expires_at, short.expires_at) == (NOW + 60, NOW + 10)
    granted = await cache.swap(access_request(), allow(expires_at=NOW + 5))
    assert granted.expires_at == NOW + 5


async def test_a_part_moved_from_one_name_to_the_next_is_another_key() -> None:
    cache = caching(ManualClock(NOW))
    first = await cache.swap(access_request(issuer="a", subject="bc"), allow())
    second = await cache.swap(access_request(issuer="ab", subject="c"), allow())
    assert first.id != second.id


async def test_per_call_credentials_are_never_kept() -> None:
    cache = caching(ManualClock(NOW))
    swaps = [await cache.swap(access_request(), allow(per_call=True)) for _ in range(20)]
    assert len({credential.id for credential in swaps}) == 20
    assert len(cache) == 0


async def test_a_denial_gets_nothing_from_the_cache() -> None:
    cache = caching(ManualClock(NOW))
    await cache.swap(access_request(), allow())
    for decision in (allow(allowed=False), allow(profile=False), allow(service="billing")):
        with pytest.raises(CredentialUnavailable):
            await cache.swap(access_request(), decision)


async def test_a_failure_is_not_kept() -> None:
    clock = ManualClock(NOW)
    catalog: dict[tuple[str, str], Facts] = {}
    cache = CachingSwapper(swapper(KEY, clock=clock, catalog=Catalog(catalog)), clock=clock)
    with pytest.raises(CredentialUnavailable):
        await cache.swap(access_request(), allow())
    catalog["orders", "get-order"] = Facts("GET", "/orders/{order_id}")
    assert (await cache.swap(access_request(), allow())).id


async def test_the_number_kept_is_bounded() -> None:
    cache = caching(ManualClock(NOW), capacity=3)
    for subject in "abcdef":
        await cache.swap(access_request(subject=subject), allow())
    assert len(cache) == 3


async def test_together_nobody_receives_what_is_another_ones() -> None:
    class SlowCatalog(Catalog):
        async def template(self, service: str, endpoint: str, revision: str) -> Facts:
            await asyncio.sleep(0)
            return await super().template(service, endpoint, revision)

    clock = ManualClock(NOW)
    cache = CachingSwapper(swapper(KEY, clock=clock, catalog=SlowCatalog()), clock=clock, capacity=5)

    async def one(n: int) -> str | None:
        subject, per_call = f"s{n % 10}", n % 3 == 0
        credential = await cache.swap(access_request(subject=subject), allow(per_call=per_call))
        assert documents(token_of(credential))[1]["sub"] == subject
        assert credential.per_call is per_call
        return credential.id if per_call else None

    ids = [token for token in await asyncio.gather(*(one(n) for n in range(300))) if token is not None]
    assert len(set(ids)) == len(ids) == 100
