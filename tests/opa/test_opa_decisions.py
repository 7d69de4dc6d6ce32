"""The demo's bundle, built and served as it is in production: request → question → OPA → decision."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ostiary import assets
from ostiary.clock import ManualClock
from ostiary.decision.authorizer import OpaAuthorizer
from ostiary.decision.horizon import PolicyHorizon
from ostiary.decision.revision import Revision
from ostiary.decision.staleness import StalenessLimit
from ostiary.errors import AccessDenied, PolicyUnavailable
from ostiary.models import AccessRequest, CredentialProfile, Grant, Identity, Json, Target
from ostiary.opa.bundle import PublishedBundle
from ostiary.opa.catalog import OpaEndpointCatalog
from ostiary.opa.client import OpaClient
from ostiary.opa.monitor import BundlePublication, PolicyMonitor
from ostiary.opa.sidecar import ManagedOpa
from ostiary.policy.bundle import build_bundle
from support.opa import until

ISSUER = "http://idp.localhost"
NOON = 1_790_078_400  # Tuesday, 2026-09-22T12:00:00Z

GRANT = Grant(
    id="g-1",
    caller="support",
    issuer=ISSUER,
    subject="ann",
    service="billing",
    endpoints=("refund",),
    expires_at=NOON + 900,
)


def ask(
    method: str,
    service: str,
    path: str,
    *,
    subject: str = "web",
    claims: dict[str, Json] | None = None,
    grants: tuple[Grant, ...] = (),
) -> AccessRequest:
    return AccessRequest(
        identity=Identity(issuer=ISSUER, subject=subject, method="jwt", expires_at=NOON + 600, claims=claims or {}),
        method=method,
        target=Target(service=service, segments=tuple(path[1:].split("/")), path=path, query=None, pairs=()),
        time=NOON,
        source_ip="127.0.0.1",
        grants=grants,
    )


@pytest.fixture(scope="module")
def bundle(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "demo"
    return build_bundle(assets.demo_bundle(), out, opa=opa_binary, sequence=3, rego_root=assets.rego()).path


@pytest.fixture
async def opa(opa_binary: Path, bundle: Path, tmp_path: Path) -> AsyncIterator[ManagedOpa]:
    async with ManagedOpa(binary=opa_binary, bundle=bundle, directory=tmp_path / "run", first_pause=0.3) as managed:
        yield managed


@pytest.fixture
async def client(opa: ManagedOpa) -> AsyncIterator[OpaClient]:
    async with OpaClient(address=opa.address, deadline=2) as client:
        yield client


@pytest.fixture
def authorizer(client: OpaClient, bundle: Path) -> OpaAuthorizer:
    clock = ManualClock(float(NOON))
    publication = BundlePublication(bundle=PublishedBundle(bundle), clock=clock)
    horizon = PolicyHorizon()
    monitor = PolicyMonitor(opa=client, publication=publication, clock=clock, horizon=horizon)
    staleness = StalenessLimit(freshness=monitor, most=60)
    return OpaAuthorizer(policy=client, staleness=staleness, horizon=horizon)


async def test_a_standing_permission_allows(authorizer: OpaAuthorizer, opa: ManagedOpa) -> None:
    decision = await authorizer.decide(ask("GET", "orders", "/orders/42"))
    decision.enforce()
    assert (decision.caller, decision.service, decision.endpoint) == ("web", "orders", "get-order")
    assert decision.permission is not None
    assert decision.permission.startswith("web/orders/get-order/")
    assert (decision.grant, decision.credential) == (None, CredentialProfile(lifetime=60, per_call=False))
    assert decision.revision == opa.revision
    assert Revision.parse(decision.revision) is not None


async def test_a_grant_allows_what_is_eligible_and_its_absence_does_not(authorizer: OpaAuthorizer) -> None:
    refund = ("POST", "billing", "/charges/c-1/refund")
    support: dict[str, Json] = {"groups": ["support"]}
    granted = await authorizer.decide(ask(*refund, subject="ann", claims=support, grants=(GRANT,)))
    assert (granted.allow, granted.permission, granted.grant) == (True, None, "g-1")
    assert (granted.expires_at, granted.credential) == (
        NOON + 900,
        CredentialProfile(lifetime=30, per_call=True),
    )
    refused = await authorizer.decide(ask(*refund, subject="ann", claims=support))
    assert (refused.allow, refused.reasons) == (False, ("grant-required",))
    assert refused.requestable == {
        "caller": "support",
        "service": "billing",
        "endpoint": "refund",
        "approvers": ["support-lead"],
        "max_duration": 1800,
    }


@pytest.mark.parametrize(
    ("request_", "reasons"),
    [
        (ask("GET", "orders", "/orders/42", subject="nobody"), ("unknown-caller",)),
        (ask("GET", "orders", "/nothing"), ("unknown-endpoint",)),
        (ask("PUT", "orders", "/orders/42"), ("unknown-endpoint",)),
        (ask("GET", "nothing", "/orders/42"), ("unknown-service",)),
        (ask("GET", "orders", "/orders/export"), ("permission-missing",)),
        (ask("DELETE", "orders", "/orders/42"), ("condition-source",)),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)
async def test_what_is_not_permitted_is_denied_with_its_reason(
    authorizer: OpaAuthorizer, request_: AccessRequest, reasons: tuple[str, ...]
) -> None:
    decision = await authorizer.decide(request_)
    assert (decision.allow, decision.reasons) == (False, reasons)
    with pytest.raises(AccessDenied) as refused:
        decision.enforce()
    assert (refused.value.status, refused.value.reason) == (403, reasons[0])


async def test_the_catalog_knows_the_endpoint_that_was_decided(authorizer: OpaAuthorizer, client: OpaClient) -> None:
    decision = await authorizer.decide(ask("GET", "orders", "/orders/42"))
    catalog = OpaEndpointCatalog(source=client, clock=ManualClock(), horizon=PolicyHorizon())
    entry = await catalog.template("orders", decision.endpoint or "", decision.revision)
    assert (entry.method, entry.path, entry.beside) == ("GET", "/orders/{order_id}", ("/orders/export",))


async def test_without_opa_nothing_is_decided_and_with_it_again_by_itself(
    authorizer: OpaAuthorizer, opa: ManagedOpa
) -> None:
    os.kill(opa.pid or 0, signal.SIGKILL)
    await until(lambda: opa.state == "down")
    for path in ("/orders/42", "/orders/export"):
        with pytest.raises(PolicyUnavailable):
            await authorizer.decide(ask("GET", "orders", path))
    await until(lambda: opa.state == "serving")
    assert (await authorizer.decide(ask("GET", "orders", "/orders/42"))).allow is True
