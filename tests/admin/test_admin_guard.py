"""Web pages that are open on the machine of a loopback listener neither read what it says nor make it do anything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from ostiary.admin.app import admin_application
from ostiary.admin.guard import OwnHostOnly
from ostiary.admin.health import Health
from support.faults import free_port
from support.forwarding import replies, response
from support.proxy import running_proxy
from support.served import raw_exchange, served
from support.upstream import RawUpstream

WELL = Health(draining=False, policy="serving", revision=None, workers=0, reports=(), serving_for=0.0, opa_restarts=0)


async def looked() -> Health:
    return WELL


async def scraped(_: str) -> tuple[bytes, str]:
    return b"up 1\n", "text/plain"


class Admin:
    """The listener's application, on a real socket, and how often it was nudged."""

    def __init__(self, address: str, nudges: list[None]) -> None:
        self.address = address
        self.nudges = nudges

    async def answer(self, method: str, path: str, **headers: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as client:
            return await client.request(method, f"{self.address}{path}", headers=headers)


@pytest.fixture
async def admin() -> AsyncIterator[Admin]:
    nudges: list[None] = []
    application = admin_application(looked, policy_nudged=lambda: nudges.append(None), scrape=scraped)
    async with served(OwnHostOnly(application)) as address:
        yield Admin(address, nudges)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8081", "127.0.0.1", "localhost", "LocalHost:8081", "[::1]:8081", "127.0.0.2:1", "a.localhost"]
)
async def test_who_asks_loopback_by_its_names_is_answered(admin: Admin, host: str) -> None:
    assert (await admin.answer("GET", "/health", host=host)).status_code == 200
    assert (await admin.answer("POST", "/status", host=host)).status_code == 200
    assert len(admin.nudges) == 1


async def test_who_names_no_host_is_answered(admin: Admin) -> None:
    """Probes of load balancers do that, and no browser."""
    answer = await raw_exchange(admin.address, "GET /livez HTTP/1.0\r\n\r\n")
    assert b" 200 OK" in answer.partition(b"\r\n")[0]


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "attacker.example:8081",
        "127.0.0.1.attacker.example",
        "localhost.attacker.example",
        "attacker.example:80:127.0.0.1",
        "attacker.example@127.0.0.1",
        "192.0.2.1:8081",
        "[::ffff:192.0.2.1]",
        "[localhost]",
        "",
    ],
)
async def test_a_name_that_somebody_made_lead_here_is_not(admin: Admin, host: str) -> None:
    for method, path in (("GET", "/health"), ("GET", "/readyz"), ("GET", "/livez"), ("POST", "/status")):
        answer = await admin.answer(method, path, host=host)
        assert (answer.status_code, answer.headers["content-type"]) == (421, "application/problem+json")
        assert answer.json() == {
            "type": "about:blank",
            "status": 421,
            "title": "the Host is another than localhost or an address of loopback",
        }
    assert admin.nudges == []


@pytest.mark.parametrize("origin", ["https://attacker.example", "null", "http://127.0.0.1:8081"])
async def test_a_page_of_another_origin_is_not(admin: Admin, origin: str) -> None:
    for method, path in (("GET", "/health"), ("POST", "/status"), ("POST", "/status/part"), ("GET", "/metrics")):
        answer = await admin.answer(method, path, origin=origin)
        assert (answer.status_code, answer.json()["status"]) == (403, 403)
    assert admin.nudges == []


async def test_a_scrape_is_answered_by_whatever_name_it_came(admin: Admin) -> None:
    """kube-rbac-proxy passes on the Host that it was asked for."""
    for host in ("10.1.2.3:8443", "ostiary-metrics.ostiary.svc:8443"):
        assert (await admin.answer("GET", "/metrics", host=host)).content == b"up 1\n"
        assert (await admin.answer("POST", "/metrics", host=host)).status_code == 421


async def test_a_proxy_s_listener_on_loopback_is_guarded_and_its_socket_needs_no_guard(
    opa_binary: Path, tmp_path: Path
) -> None:
    port = free_port()
    async with RawUpstream(replies(response())).running() as upstream:
        async with (
            running_proxy(upstreams={"orders": upstream.port}, admin_port=port),
            httpx.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{port}") as client,
        ):
            assert (await client.get("/health")).status_code == 200
            assert (await client.get("/health", headers={"host": "attacker.example"})).status_code == 421
            assert (await client.post("/status", headers={"origin": "http://a.example"})).status_code == 403
        async with running_proxy(upstreams={"orders": upstream.port}) as proxy:
            transport = httpx.AsyncHTTPTransport(uds=str(proxy.admin))
            async with httpx.AsyncClient(transport=transport) as client:
                assert (await client.get("http://anything.example/health")).status_code == 200
