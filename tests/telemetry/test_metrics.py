"""What a proxy with two workers exports of the requests that it got."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families

from ostiary import __version__
from ostiary.telemetry import METRICS
from support.forwarding import replies, reserved_port, response
from support.metrics import OPENMETRICS, samples, scrape, total
from support.proxy import RunningProxy, running_proxy
from support.tools import tool
from support.upstream import RawUpstream

WEB = {"caller": "web", "service": "orders"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxy(opa_binary: Path) -> AsyncIterator[RunningProxy]:
    with reserved_port() as port:
        async with (
            running_proxy(upstreams={"orders": port}, workers=2) as proxy,
            RawUpstream(replies(response()), port=port).running(),
        ):
            yield proxy


async def ask(proxy: RunningProxy, *requests: tuple[str, str, str | None]) -> list[int]:
    """The statuses of requests, each on a connection of its own: method, path and who asks."""
    every_time_anew = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(trust_env=False, limits=every_time_anew) as client:
        answers = [
            client.request(method, proxy.url(path), headers=proxy.headers(subject))
            for method, path, subject in requests
        ]
        return [answer.status_code for answer in await asyncio.gather(*answers)]


@pytest.mark.asyncio(loop_scope="module")
async def test_every_request_is_counted_once_whichever_worker_had_it(proxy: RunningProxy) -> None:
    before = scrape(proxy).text
    allowed = [("GET", "/orders/42", "web")] * 20
    refused = [("DELETE", "/orders/42", "web"), ("GET", "/nothing", "web"), ("GET", "/orders/42", None)]
    assert await ask(proxy, *allowed, *refused) == [200] * 20 + [403, 403, 401]
    after = scrape(proxy).text

    def grown(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    assert grown("ostiary_requests_total", **WEB, endpoint="get-order", status="2xx") == 20
    assert grown("ostiary_requests_total", status="4xx") == 3
    assert grown("ostiary_refusals_total", **WEB, endpoint="delete-order", reason="permission-missing") == 1
    assert grown("ostiary_refusals_total", service="orders", reason="unknown-endpoint") == 1
    assert grown("ostiary_refusals_total", caller="", service="orders", reason="identity-missing") == 1
    assert grown("ostiary_request_duration_seconds_count", service="orders", outcome="forwarded") == 20
    assert grown("ostiary_request_duration_seconds_count", service="orders", outcome="refused") == 3
    assert grown("ostiary_decision_duration_seconds_count") == 22
    assert grown("ostiary_permission_uses_total", permission="web/orders/get-order/44136fa3") == 20
    looked_for = {result: grown("ostiary_decision_cache_lookups_total", result=result) for result in ("hit", "shared")}
    assert grown("ostiary_decision_cache_lookups_total") == 22
    assert grown("ostiary_opa_questions_total") == 22 - sum(looked_for.values())
    assert 1 <= grown("ostiary_credentials_total", service="orders") <= 20
    assert grown("ostiary_sent_bytes_total", service="orders") > 0


@pytest.mark.asyncio(loop_scope="module")
async def test_the_proxy_tells_what_it_is_and_how(proxy: RunningProxy) -> None:
    await ask(proxy, ("GET", "/orders/42", "web"))
    text = scrape(proxy).text
    found = {(one.name, *one.labels.values()): one.value for one in samples(text)}
    health = proxy.health()[1]
    assert found["ostiary_ready",] == 1
    assert found["ostiary_policy_info", health["revision"]] == 1
    assert 0 <= found["ostiary_policy_age_seconds",] < 60
    assert found["ostiary_policy_age_limit_seconds",] == 86400
    assert (found["ostiary_policy_up",], found["ostiary_policy_trusted",], found["ostiary_epoch",]) == (1, 1, 1)
    assert found["ostiary_workers", "wanted"] == found["ostiary_workers", "answering"] == 2
    assert (found["ostiary_audit_writable",], found["ostiary_audit_lost_total",]) == (1, 0)
    assert total(text, "ostiary_permissions") == 8  # of the seven endpoints of web and the one of reporting
    assert found["ostiary_permissions", "used"] == 1
    assert total(text, "ostiary_build_info", version=__version__) == 1
    assert {one.labels["process"] for one in samples(text) if one.name == "ostiary_cpu_seconds_total"} == {
        "supervisor",
        "w0",
        "w1",
    }
    assert all(one.value > 1e6 for one in samples(text) if one.name == "ostiary_resident_memory_bytes")


@pytest.mark.asyncio(loop_scope="module")
async def test_both_formats_are_what_their_tools_accept(proxy: RunningProxy) -> None:
    await ask(proxy, ("GET", "/orders/42", "web"), ("GET", "/nothing", "web"))
    plain = scrape(proxy)
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    command = [tool("promtool"), "check", "metrics"]
    checked = await asyncio.to_thread(
        subprocess.run, command, input=plain.text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")

    strict = scrape(proxy, OPENMETRICS)
    assert strict.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    families = {family.name: family for family in openmetrics_families(strict.text)}
    assert families.keys() == {family.stem for family in METRICS.values()}
    for family in METRICS.values():
        for sample in families[family.stem].samples:
            assert sample.labels.keys() - {"le"} == set(family.labels), sample


@pytest.mark.asyncio(loop_scope="module")
async def test_a_worker_that_dies_takes_nothing_back(proxy: RunningProxy) -> None:
    """What it has told stays counted, and its successor's requests come on top."""
    await ask(proxy, *[("GET", "/orders/42", "web")] * 8)
    before = scrape(proxy).text
    os.kill(proxy.worker_pids[0], signal.SIGKILL)
    deadline = time.monotonic() + 60
    while total(text := scrape(proxy).text, "ostiary_workers", state="answering") < 2 or not total(
        text, "ostiary_worker_deaths_total"
    ):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    for one in samples(before):
        if one.name.endswith("_total") or one.name.endswith(("_bucket", "_count", "_sum")):
            assert total(text, one.name, **one.labels) >= one.value, one
    assert total(text, "ostiary_worker_deaths_total") == 1
    known = total(text, "ostiary_requests_total")
    await ask(proxy, *[("GET", "/orders/42", "web")] * 8)
    assert total(scrape(proxy).text, "ostiary_requests_total") == known + 8


@pytest.mark.asyncio(loop_scope="module")
async def test_workers_that_are_replaced_hand_over_what_they_have_counted(proxy: RunningProxy) -> None:
    """Nobody asked them since: they tell at their end."""
    known = total(scrape(proxy).text, "ostiary_requests_total")
    await ask(proxy, *[("GET", "/orders/42", "web")] * 8)
    old = set(proxy.worker_pids)
    os.kill(proxy.pid, signal.SIGUSR2)
    deadline = time.monotonic() + 60
    while old & set(proxy.worker_pids) or "all workers were restarted" not in proxy.log_text():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    text = scrape(proxy).text
    assert total(text, "ostiary_requests_total") == known + 8
    assert total(text, "ostiary_worker_deaths_total") == 1


@pytest.mark.asyncio(loop_scope="module")
async def test_every_metric_has_samples_but_those_that_say_what_is_not_so_here(proxy: RunningProxy) -> None:
    await ask(proxy, ("GET", "/orders/42", "web"), ("GET", "/nothing", "web"))
    named = {re.sub("_(bucket|sum|count)$", "", one.name) for one in samples(scrape(proxy).text)}
    absent = {"tls_current", "webhook_deliveries_total", "webhook_waiting", "candidate_decisions_total"}
    assert METRICS.keys() - named == {f"ostiary_{name}" for name in absent}
