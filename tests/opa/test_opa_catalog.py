"""The endpoint catalog: what a credential says about its endpoint is what the bundle that decided has."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ostiary.clock import ManualClock
from ostiary.decision.horizon import PolicyHorizon
from ostiary.decision.query import Answer
from ostiary.errors import CredentialUnavailable, PolicyUnavailable
from ostiary.opa.catalog import CatalogEntry, OpaEndpointCatalog
from support.opa import ENDPOINTS, answer


class Source:
    """An `EndpointSource`: gives what it holds, when its gate is open, and counts."""

    def __init__(self, given: Answer | PolicyUnavailable) -> None:
        self.given = given
        self.readings = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def endpoints(self) -> Answer:
        self.readings += 1
        await self.gate.wait()
        if isinstance(self.given, PolicyUnavailable):
            raise self.given
        return self.given


def catalog(source: Source, clock: ManualClock | None = None) -> OpaEndpointCatalog:
    return OpaEndpointCatalog(source=source, clock=clock or ManualClock(), horizon=PolicyHorizon())


async def test_an_endpoint_has_its_method_template_and_what_stands_beside_it() -> None:
    source = Source(answer(ENDPOINTS, revision="7-a"))
    entries = catalog(source)
    assert await entries.template("orders", "get-order", "7-a") == CatalogEntry(
        method="GET", path="/orders/{order_id}", beside=("/orders/admin",)
    )
    assert await entries.template("orders", "admin", "7-a") == CatalogEntry(
        method="GET", path="/orders/admin", beside=()
    )
    assert source.readings == 1


async def test_the_routes_of_a_service_find_an_endpoint() -> None:
    entries = catalog(Source(answer(ENDPOINTS, revision="7-a")))
    routes = await entries.routes("orders", "7-a")
    assert routes is not None
    found = routes.table.endpoint("GET", ("orders", "42"))
    assert found is not None
    assert (found.name, await entries.routes("billing", "7-a")) == ("get-order", None)


@pytest.mark.parametrize(("service", "endpoint"), [("billing", "get-order"), ("orders", "refund")])
async def test_an_endpoint_that_the_bundle_does_not_have_gets_no_credential(service: str, endpoint: str) -> None:
    with pytest.raises(CredentialUnavailable):
        await catalog(Source(answer(ENDPOINTS, revision="7-a"))).template(service, endpoint, "7-a")


async def test_another_revision_is_read_and_the_one_before_is_kept() -> None:
    source = Source(answer(ENDPOINTS, revision="7-a"))
    entries = catalog(source)
    await entries.template("orders", "list", "7-a")
    source.given = answer({"orders": {"list": "GET /all"}}, revision="8-b")
    assert (await entries.template("orders", "list", "8-b")).path == "/all"
    assert (await entries.template("orders", "list", "7-a")).path == "/orders"
    source.given = answer({"orders": {"list": "GET /every"}}, revision="9-c")
    assert (await entries.template("orders", "list", "9-c")).path == "/every"
    assert source.readings == 3
    with pytest.raises(CredentialUnavailable):
        await entries.template("orders", "admin", "7-a")


async def test_a_reading_counts_for_the_revision_that_came_with_it() -> None:
    source = Source(answer(ENDPOINTS, revision="8-b"))
    entries = catalog(source)
    with pytest.raises(CredentialUnavailable, match="7-a"):
        await entries.template("orders", "list", "7-a")
    assert (await entries.template("orders", "list", "8-b")).path == "/orders"
    assert source.readings == 1


async def test_a_revision_that_is_not_there_is_asked_for_once_a_second() -> None:
    source, clock = Source(answer(ENDPOINTS, revision="8-b")), ManualClock()
    entries = catalog(source, clock)
    for _ in range(5):
        with pytest.raises(CredentialUnavailable):
            await entries.template("orders", "list", "7-a")
    assert source.readings == 1
    clock.advance(1.1)
    source.given = answer(ENDPOINTS, revision="7-a")
    assert (await entries.template("orders", "list", "7-a")).path == "/orders"


async def test_those_who_ask_together_share_one_reading_and_none_ends_it_for_the_others() -> None:
    source = Source(answer(ENDPOINTS, revision="7-a"))
    source.gate.clear()
    entries = catalog(source)
    asking = [asyncio.create_task(entries.template("orders", "list", "7-a")) for _ in range(10)]
    await asyncio.sleep(0)
    asking[0].cancel()
    await asyncio.sleep(0)
    source.gate.set()
    given = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(given[0], asyncio.CancelledError)
    assert given[1:] == [CatalogEntry(method="GET", path="/orders", beside=())] * 9
    assert source.readings == 1


async def test_when_opa_is_away_there_is_no_credential_and_then_there_is() -> None:
    source = Source(PolicyUnavailable("away"))
    entries = catalog(source)
    with pytest.raises(CredentialUnavailable, match="away"):
        await entries.template("orders", "list", "7-a")
    source.given = answer(ENDPOINTS, revision="7-a")
    assert (await entries.template("orders", "list", "7-a")).path == "/orders"


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {"orders": None},
        {"orders": ["GET /"]},
        {"orders": {"list": 1}},
        {"orders": {"list": "/orders"}},
        {"orders": {"list": "GET orders"}},
        {"orders": {"list": "GET /orders", "again": "GET /orders"}},
    ],
    ids=repr,
)
async def test_a_table_outside_the_grammar_gives_no_credential(document: Any) -> None:
    with pytest.raises(CredentialUnavailable):
        await catalog(Source(answer(document, revision="7-a"))).template("orders", "list", "7-a")


async def test_a_table_without_a_revision_gives_no_credential() -> None:
    with pytest.raises(CredentialUnavailable, match="which bundle"):
        await catalog(Source(answer(ENDPOINTS, revision=None))).template("orders", "list", "7-a")
