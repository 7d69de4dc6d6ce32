"""The endpoint catalog: what a credential says about its endpoint is what the bundle that decided has."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ostiary.clock import ManualClock
from ostiary.decision.horizon import PolicyHorizon
from ostiary.decision.query import Answer
from ostiary.errors import CredentialUnavailable, PolicyUnavailable
from ostiary.interfaces import Prediction
from ostiary.models import Target
from ostiary.opa.catalog import CatalogEntry, OpaEndpointCatalog
from support.opa import ENDPOINTS, answer, until


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


def catalog(
    source: Source, clock: ManualClock | None = None, horizon: PolicyHorizon | None = None
) -> OpaEndpointCatalog:
    return OpaEndpointCatalog(source=source, clock=clock or ManualClock(), horizon=horizon or PolicyHorizon())


def target(path: str = "/orders/42", *, service: str = "orders") -> Target:
    return Target(service=service, segments=tuple(path[1:].split("/")), path=path, query=None, pairs=())


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


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


@pytest.mark.parametrize(
    ("method", "aimed", "endpoint"),
    [
        ("GET", target(), "get-order"),
        ("GET", target("/orders/admin"), "admin"),
        ("GET", target("/orders/Admin"), None),
        ("POST", target(), None),
        ("GET", target("/nowhere"), None),
        ("GET", target(service="billing"), None),
    ],
)
async def test_a_prediction_is_what_the_table_of_the_bundle_says(
    method: str, aimed: Target, endpoint: str | None
) -> None:
    entries = catalog(Source(answer(ENDPOINTS, revision="7-a")))
    await entries.read()
    assert entries.predict(aimed, method) == Prediction("7-a", endpoint)


async def test_a_prediction_is_the_same_again_and_what_is_remembered_is_bounded() -> None:
    """Told apart by service, method and segments; a flood of paths is forgotten again."""
    entries = catalog(Source(answer(ENDPOINTS, revision="7-a")))
    await entries.read()
    asked = [
        (target(), "GET"),
        (target(), "POST"),
        (target("/orders/admin"), "GET"),
        (target(service="billing"), "GET"),
    ]
    first = [entries.predict(aimed, method) for aimed, method in asked]
    for number in range(3000):
        assert entries.predict(target(f"/orders/{number}"), "GET") == Prediction("7-a", "get-order")
    assert first == [entries.predict(aimed, method) for aimed, method in asked]
    assert [one.endpoint for one in first] == ["get-order", None, "admin", None]
    assert len(entries._predictions) <= 1024


async def test_a_table_that_was_read_tells_which_bundle_counts() -> None:
    horizon = PolicyHorizon()
    await catalog(Source(answer(ENDPOINTS, revision="7-a")), horizon=horizon).read()
    assert horizon.current == "7-a"


async def test_nothing_is_predicted_until_the_table_is_there_and_nobody_waits_for_it() -> None:
    horizon, source = PolicyHorizon(), Source(answer(ENDPOINTS, revision="7-a"))
    entries = catalog(source, horizon=horizon)
    assert entries.predict(target(), "GET") == Prediction(None, None)  # no bundle is known
    horizon.saw("7-a", asked=0)
    source.gate.clear()
    assert [entries.predict(target(), "GET") for _ in range(3)] == [Prediction(None, None)] * 3
    source.gate.set()
    await until(lambda: entries.predict(target(), "GET") == Prediction("7-a", "get-order"))
    assert source.readings == 1


async def test_a_bundle_that_comes_to_count_is_read_by_the_next_request() -> None:
    horizon, source = PolicyHorizon(), Source(answer(ENDPOINTS, revision="7-a"))
    entries = catalog(source, horizon=horizon)
    await entries.read()
    source.given = answer({"orders": {"fetch": "GET /orders/{order_id}"}}, revision="8-b")
    horizon.saw("8-b", asked=horizon.changes)
    assert entries.predict(target(), "GET") == Prediction(None, None)
    await until(lambda: entries.predict(target(), "GET") == Prediction("8-b", "fetch"))


async def test_a_table_that_is_not_to_be_had_is_asked_for_again_later(caplog: pytest.LogCaptureFixture) -> None:
    clock, horizon, source = ManualClock(), PolicyHorizon(), Source(PolicyUnavailable("OPA is gone"))
    entries = catalog(source, clock, horizon)
    await entries.read()
    horizon.saw("7-a", asked=0)
    for _ in range(3):
        entries.predict(target(), "GET")
        await settled()
    assert (source.readings, "OPA is gone" in caplog.text) == (2, True)
    source.given = answer(ENDPOINTS, revision="7-a")
    clock.advance(1.1)
    await until(lambda: entries.predict(target(), "GET") == Prediction("7-a", "get-order"))


async def test_a_credential_waits_for_the_table_that_a_prediction_has_begun_to_read() -> None:
    horizon, source = PolicyHorizon(), Source(answer(ENDPOINTS, revision="7-a"))
    horizon.saw("7-a", asked=0)
    entries = catalog(source, horizon=horizon)
    source.gate.clear()
    entries.predict(target(), "GET")
    waiting = asyncio.create_task(entries.template("orders", "list", "7-a"))
    await asyncio.sleep(0)
    source.gate.set()
    assert ((await waiting).path, source.readings) == ("/orders", 1)


async def test_nothing_is_predicted_for_a_bundle_that_is_distrusted() -> None:
    horizon = PolicyHorizon()
    entries = catalog(Source(answer(ENDPOINTS, revision="7-a")), horizon=horizon)
    await entries.read()
    horizon.distrust("7-a", "its answers contradicted the table")
    assert entries.predict(target(), "GET") == Prediction(None, None)
    assert (await entries.template("orders", "list", "7-a")).path == "/orders"
