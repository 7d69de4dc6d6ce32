"""Open exchanges are judged again, by a real OPA."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ostiary import assets
from ostiary.access import AccessRequestBuilder, NoGrants, NoPrediction
from ostiary.clock import ManualClock
from ostiary.decision.authorizer import OpaAuthorizer
from ostiary.decision.batching import BatchingPolicy
from ostiary.decision.horizon import PolicyHorizon
from ostiary.decision.staleness import StalenessLimit
from ostiary.decision.warden import PATIENCE, PolicyWarden
from ostiary.errors import ConditionHours, IdentityInvalid, PolicyStale, PolicyUnavailable
from ostiary.models import Identity, Target
from ostiary.opa.bundle import PublishedBundle
from ostiary.opa.client import OpaClient
from ostiary.opa.monitor import BundlePublication, PolicyMonitor
from ostiary.opa.sidecar import ManagedOpa
from ostiary.policy.bundle import build_bundle
from support.audit import exchange
from support.faults import stopped
from support.warden import Opened

NOON = 1_790_078_400  # Tuesday, 2026-09-22T12:00:00Z
STALE = 600.0
PERMISSIONS = """\
services:
  orders:
    endpoints:
      list-orders: GET /orders
callers:
  web: {issuer: https://idp.test, subject: web}
  night: {issuer: https://idp.test, subject: night}
permissions:
  - {caller: web, service: orders, endpoints: [list-orders]}
  - {caller: night, service: orders, endpoints: [list-orders],
     when: {hours: {from: "08:00", to: "12:01", days: [tue], timezone: UTC}}}
"""
ORDERS = Target(service="orders", segments=("orders",), path="/orders", query=None, pairs=())


@pytest.fixture(scope="module")
def bundle(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("policy")
    (place / "permissions.yaml").write_text(PERMISSIONS)
    return build_bundle(place, place / "built", opa=opa_binary, sequence=3, rego_root=assets.rego()).path


class Worker:
    """As much of a worker as decides, at a time that stands still."""

    def __init__(self, client: OpaClient, bundle: Path) -> None:
        self.clock = ManualClock(float(NOON))
        horizon = PolicyHorizon()
        publication = BundlePublication(bundle=PublishedBundle(bundle), clock=self.clock)
        monitor = PolicyMonitor(opa=client, publication=publication, clock=self.clock, horizon=horizon)
        self._authorizer = OpaAuthorizer(
            policy=BatchingPolicy(policy=client, deadline=0.5),
            staleness=StalenessLimit(freshness=monitor, most=STALE),
            horizon=horizon,
        )
        self._requests = AccessRequestBuilder(clock=self.clock, grants=NoGrants(), endpoints=NoPrediction())
        self.warden = PolicyWarden(
            authorizer=self._authorizer, requests=self._requests, horizon=horizon, clock=self.clock
        )

    async def open(self, subject: str, *, lasts: int = 36_000, leeway: int = 0) -> Opened:
        identity = Identity(
            issuer="https://idp.test", subject=subject, method="jwt", expires_at=NOON + lasts, leeway=leeway
        )
        request = self._requests.build(exchange(), ORDERS, identity)
        decision = await self._authorizer.decide(request)
        decision.enforce()
        opened = Opened(self.warden, request, decision)
        await asyncio.sleep(0)
        return opened


@pytest.fixture
async def opa(opa_binary: Path, bundle: Path, tmp_path: Path) -> AsyncIterator[ManagedOpa]:
    async with ManagedOpa(binary=opa_binary, bundle=bundle, directory=tmp_path / "run") as managed:
        yield managed


@pytest.fixture
async def worker(opa: ManagedOpa, bundle: Path) -> AsyncIterator[Worker]:
    async with OpaClient(address=opa.address, deadline=0.5) as client:
        yield Worker(client, bundle)


async def test_hours_end_what_is_open_with_their_last_minute_and_tokens_with_their_leeway(worker: Worker) -> None:
    day, night = await worker.open("web"), await worker.open("night")
    short = await worker.open("web", lasts=30, leeway=5)
    worker.clock.advance(34.5)
    assert await short.goes_on()
    worker.clock.advance(0.5)
    assert isinstance(await short.cut(), IdentityInvalid)
    worker.clock.advance(24.9)
    assert await night.goes_on()
    worker.clock.advance(0.1)
    refusal = await night.cut()
    assert (type(refusal), refusal.reasons) == (ConditionHours, ("condition-hours",))
    assert await day.goes_on()
    await day.end()


async def test_what_opa_cannot_be_asked_about_goes_on_for_a_while_and_no_longer(
    worker: Worker, opa: ManagedOpa
) -> None:
    opened, other = await worker.open("web"), await worker.open("night")
    with stopped(opa.pid or 0):
        worker.clock.advance(61)
        await asyncio.sleep(1)  # so that OPA is late for an answer
        assert await opened.goes_on()
        worker.clock.advance(PATIENCE)
        refusal = await opened.cut()
        assert (refusal.status, type(refusal)) == (503, PolicyUnavailable)
        assert "could not be judged again for 10 s" in refusal.detail
        assert isinstance(await other.cut(), PolicyUnavailable)


async def test_opa_that_is_back_in_time_is_asked_again(worker: Worker, opa: ManagedOpa) -> None:
    opened, other = await worker.open("web"), await worker.open("night")
    with stopped(opa.pid or 0):
        worker.clock.advance(61)
        await asyncio.sleep(1)
    assert (await other.cut()).reasons == ("condition-hours",)
    worker.clock.advance(PATIENCE)
    assert await opened.goes_on()
    await opened.end()


async def test_nothing_outlives_a_policy_that_has_become_stale(worker: Worker) -> None:
    opened = await worker.open("web")
    worker.clock.advance(STALE + 60)
    assert await opened.goes_on()
    worker.clock.advance(PATIENCE)
    assert isinstance(await opened.cut(), PolicyStale)


async def test_others_can_end_what_is_open_by_whose_it_is(worker: Worker) -> None:
    web, night = await worker.open("web"), await worker.open("night")
    worker.clock.advance(59)
    assert worker.warden.judge(lambda identity: identity.subject == "night") == 1
    assert await night.goes_on()
    worker.clock.advance(0)
    assert worker.warden.cut(lambda identity: identity.subject == "web", lambda: IdentityInvalid("blocked")) == 1
    assert (await web.cut()).detail == "blocked"
    assert worker.warden.cut(lambda identity: identity.subject == "web", lambda: IdentityInvalid("blocked")) == 0
    assert await night.goes_on()
    await night.end()


async def test_a_cancellation_from_elsewhere_is_nobodys_refusal(worker: Worker) -> None:
    opened = await worker.open("web")
    await opened.end()
    assert (opened.task.cancelled(), opened.refusal) == (True, None)
