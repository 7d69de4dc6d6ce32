"""Another bundle: from the instant it is announced no worker answers by the one before, however warm its cache is."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from ostiary import assets
from ostiary.clock import written_instant
from ostiary.page import Page
from ostiary.policy.archive import SUFFIX, pack
from ostiary.policy.bundle import build_bundle
from support.faults import asked, changed_proxy, eventually, free_port
from support.forwarding import replies, response
from support.opa import until
from support.proxy import PERMISSIONS, RunningProxy, running_proxy
from support.upstream import RawUpstream

OBSERVED = "observe:\n  orders: {{until: {end}}}\n"
WITHOUT_ORDER_42 = PERMISSIONS.replace("list-orders, get-order, head-order", "list-orders, head-order")


@contextmanager
def page_of(proxy: RunningProxy) -> Iterator[Page]:
    page = Page.attach(proxy.place / "state" / "page")
    try:
        yield page
    finally:
        page.close()


async def test_a_bundle_that_was_announced_is_the_only_one_that_answers(opa_binary: Path) -> None:
    """Two workers whose caches are warm; each request on a connection of its own, so that both are asked."""
    async with (
        RawUpstream(replies(response())).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, workers=2) as proxy,
    ):
        with page_of(proxy) as page:

            async def publish(sequence: int, permissions: str) -> None:
                (proxy.place / "policy" / "permissions.yaml").write_text(permissions)
                built = await asyncio.to_thread(
                    build_bundle,
                    proxy.place / "policy",
                    proxy.bundle,
                    opa=opa_binary,
                    sequence=sequence,
                    rego_root=assets.rego(),
                )
                await until(lambda: page.revision() == built.revision, seconds=60)

            for sequence, permissions in ((2, WITHOUT_ORDER_42), (3, PERMISSIONS), (4, WITHOUT_ORDER_42)):
                before = {await asyncio.to_thread(status, proxy) for _ in range(30)}
                await publish(sequence, permissions)
                after = {await asyncio.to_thread(status, proxy) for _ in range(30)}
                assert (before, after) == (({200}, {403}) if permissions == WITHOUT_ORDER_42 else ({403}, {200}))
            cached = [line["cached"] for line in proxy.audit_lines() if line["kind"] in ("decision", "refusal")]
            assert cached.count(True) > cached.count(False)
            await publish(5, WITHOUT_ORDER_42 + OBSERVED.format(end=written_instant(int(time.time()) + 10)))
            await observed_until_it_ends(proxy)


async def observed_until_it_ends(proxy: RunningProxy) -> None:
    """With warm caches, in both workers: it is said, and ends by itself."""
    assert {await asyncio.to_thread(status, proxy) for _ in range(10)} == {200}
    health = told(proxy)
    assert list(health["observed"]) == ["orders"]
    assert sum(report["unenforced"]["observed"] for report in health["reports"]) == 10
    decision = [line for line in proxy.audit_lines() if line["kind"] == "decision"][-1]
    assert (decision["reasons"], decision["permission"], decision["grant"]) == (["permission-missing"], None, None)
    assert (decision["result"]["observed"], decision["result"]["shadow"]) == (True, None)
    assert decision["credential"]["expires_at"] <= decision["result"]["expires_at"]
    assert f"orders is only observed until {health['observed']['orders']}" in proxy.log_text()
    await until(lambda: time.time() > decision["result"]["expires_at"], seconds=60)
    assert {await asyncio.to_thread(status, proxy) for _ in range(10)} == {403}
    assert told(proxy)["observed"] == {}


def told(proxy: RunningProxy) -> dict[str, Any]:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(proxy.admin))) as client:
        found: dict[str, Any] = client.get("http://admin/health").json()
        return found


def status(proxy: RunningProxy) -> int:
    return asked(proxy)[0]


class Bundles:
    """A bundle server: what it holds, for who does not have it yet."""

    def __init__(self, server: HTTPServer) -> None:
        self.content, self.tag = b"", ""
        server.expect_request("/bundle.tar.gz").respond_with_handler(self._answer)

    def publish(self, bundle: Path, revision: str) -> None:
        archive = bundle.with_suffix(SUFFIX)
        pack(bundle, archive)
        self.content, self.tag = archive.read_bytes(), f'"{revision}"'

    def _answer(self, request: Request) -> Response:
        if request.headers.get("If-None-Match") == self.tag:
            return Response(status=304, headers={"ETag": self.tag})
        return Response(self.content, headers={"ETag": self.tag}, content_type="application/gzip")


@asynccontextmanager
async def polling_opa(opa: Path, place: Path, *, bundles: str, reports: str) -> AsyncIterator[str]:
    """An OPA that polls a bundle server and reports its status; its address."""
    address = f"127.0.0.1:{free_port()}"
    configuration = {
        "services": {"bundles": {"url": bundles}, "proxy": {"url": reports}},
        "bundles": {
            "main": {
                "service": "bundles",
                "resource": "bundle.tar.gz",
                "polling": {"min_delay_seconds": 1, "max_delay_seconds": 1},
            }
        },
        "status": {"service": "proxy", "prometheus": True},
    }
    file = place / "opa.json"
    file.write_text(json.dumps(configuration), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        opa, "run", "--server", "--addr", address, "--skip-version-check", "--log-level=error", "--config-file", file
    )
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        await process.wait()


async def test_the_opa_of_another_tells_of_its_bundles(
    opa_binary: Path, tmp_path: Path, httpserver: HTTPServer
) -> None:
    """Its status plugin reports to the administrative listener, which then looks: no need to wait for the next look."""

    def publish(sequence: int) -> str:
        permissions = WITHOUT_ORDER_42 if sequence % 2 else PERMISSIONS
        (tmp_path / "permissions.yaml").write_text(permissions)
        built = build_bundle(tmp_path, tmp_path / "bundle", opa=opa_binary, sequence=sequence, rego_root=assets.rego())
        bundles.publish(built.path, built.revision)
        return built.revision

    bundles, admin = Bundles(httpserver), free_port()
    publish(2)
    async with (
        RawUpstream(replies(response())).running() as upstream,
        polling_opa(opa_binary, tmp_path, bundles=httpserver.url_for(""), reports=f"http://127.0.0.1:{admin}") as opa,
        changed_proxy(
            upstreams={"orders": upstream.port},
            changes={"{managed: {bundle: bundle}}": f'{{url: "{opa}"}}'},
            admin_port=admin,
        ) as proxy,
    ):
        with page_of(proxy) as page:
            assert await asyncio.to_thread(status, proxy) == 200
            took = []
            for sequence in (3, 4, 5):
                revision = await asyncio.to_thread(publish, sequence)
                active = f"{opa}/v1/data/ostiary/revision?provenance=true"
                await eventually(lambda: revision in fetched(active))  # noqa: B023 - called in this turn
                began = time.monotonic()
                await until(lambda: page.revision() == revision, seconds=60)  # noqa: B023 - as above
                took.append(time.monotonic() - began)
                assert await asyncio.to_thread(status, proxy) == (403 if sequence % 2 else 200)
            assert min(took) < 1  # the supervisor looks by itself every five seconds


def fetched(url: str) -> str:
    return httpx.get(url, trust_env=False).text
