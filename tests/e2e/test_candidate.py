"""A candidate beside the policy that decides: what it would do otherwise is told, and no request notices it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from ostiary import assets
from ostiary.policy.bundle import build_bundle
from support.cli import Ran, ostiary
from support.faults import eventually
from support.forwarding import replies, response
from support.metrics import scrape, total
from support.proxy import PERMISSIONS, RunningProxy, children, command_line, running_proxy
from support.upstream import RawUpstream

CANDIDATE = PERMISSIONS.replace("list-orders, get-order, head-order", "list-orders, head-order, delete-order").replace(
    "get-order:", "read-order:"
)


def build(proxy: RunningProxy, permissions: str, *, sequence: int, opa: Path) -> None:
    source = proxy.place / "proposed"
    source.mkdir(exist_ok=True)
    (source / "permissions.yaml").write_text(permissions)
    build_bundle(source, proxy.place / "candidate", opa=opa, sequence=sequence, rego_root=assets.rego())


def counted(proxy: RunningProxy) -> dict[str, Any]:
    """What the proxy says in its health."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(proxy.admin)), trust_env=False) as client:
        found: dict[str, Any] = client.get("http://localhost/health").json()["candidate"]
        return found


def command(proxy: RunningProxy, *options: str) -> Ran:
    return ostiary("candidate", "-c", proxy.place / "ostiary.yaml", *options)


def answers(proxy: RunningProxy) -> list[int]:
    requests = [("GET", "/orders/42"), ("DELETE", "/orders/42"), ("GET", "/orders")]
    headers = proxy.headers()
    return [httpx.request(method, proxy.url(path), headers=headers).status_code for method, path in requests]


def candidate_opa(proxy: RunningProxy) -> int:
    return next(pid for pid in children(proxy.pid) if b"opa-candidate" in command_line(pid))


async def test_a_candidate_is_compared_and_changes_nothing(opa_binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSTIARY_OPA", str(opa_binary))
    async with (
        RawUpstream(replies(response())).running() as upstream,
        running_proxy(
            upstreams={"orders": upstream.port}, config_extra="candidate: {bundle: candidate, sample: 1}\n"
        ) as proxy,
    ):
        # There is no candidate yet.
        assert await asyncio.to_thread(answers, proxy) == [200, 403, 200]
        await eventually(lambda: counted(proxy)["state"] == "down")
        assert command(proxy).status == 1
        assert proxy.health()[1]["ready"] is True
        assert "candidate is not served: " in proxy.log_text()

        # One comes. What was asked before is not counted as its.
        build(proxy, CANDIDATE, sequence=2, opa=opa_binary)
        await eventually(lambda: counted(proxy)["state"] == "serving")
        usual = os.getpriority(os.PRIO_PROCESS, proxy.pid)
        assert os.getpriority(os.PRIO_PROCESS, candidate_opa(proxy)) == min(usual + 10, 19)
        for _ in range(2):
            assert await asyncio.to_thread(answers, proxy) == [200, 403, 200]
        await eventually(lambda: counted(proxy)["compared"] >= 6)
        found = counted(proxy)
        assert found["revision"].startswith("2-")
        assert {(each["kind"], each["caller"], each["endpoint"]) for each in found["differences"]} == {
            ("would-deny", "web", "get-order"),
            ("would-allow", "web", "delete-order"),
        }
        assert found["compared"] // 3 == found["differences"][0]["count"] == found["differences"][1]["count"]
        assert " would deny: GET /orders/42 of orders, by web of " in proxy.log_text()
        assert json.loads(command(proxy, "--json").out) == found
        ran = command(proxy)
        table = ran.out.splitlines()
        assert (ran.status, ran.err) == (0, "")
        assert table[0].split() == ["difference", "caller", "endpoint", "count"]
        assert table[-1].startswith(f"candidate {found['revision']} is serving: ")

        metrics = scrape(proxy).text
        for result in ("would-deny", "would-allow"):
            assert total(metrics, "ostiary_candidate_decisions_total", result=result) >= 2

        # Another one: counted anew.
        build(proxy, PERMISSIONS, sequence=3, opa=opa_binary)
        await eventually(lambda: counted(proxy)["revision"].startswith("3-"))
        assert await asyncio.to_thread(answers, proxy) == [200, 403, 200]
        await eventually(lambda: counted(proxy)["compared"] == 3)
        assert counted(proxy)["differences"] == []

        # It dies, and what is asked meanwhile is only not compared.
        os.kill(candidate_opa(proxy), signal.SIGKILL)
        assert await asyncio.to_thread(answers, proxy) == [200, 403, 200]
        assert proxy.health()[1]["ready"] is True


def test_a_proxy_without_a_candidate_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = (
        "listen: {data: 127.0.0.1:0}\n"
        "issuers: [{issuer: https://idp.test, audience: p, key_file: k, algorithms: [ES256]}]\n"
        'services: {orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}}\n'
    )
    managed, with_one = "opa: {managed: {bundle: b}}\n", "candidate: {bundle: c}\n"
    for extra, told in [
        (managed, "ostiary.yaml: there is no candidate in it\n"),
        (
            managed + with_one,
            f"no proxy runs: there is no socket {tmp_path}/state/admin.sock\n",
        ),
        (
            managed + "candidate: {bundle: b}\n",
            "ostiary.yaml:5: candidate.bundle: is the bundle that decides: nothing could differ\n",
        ),
        (
            'opa: {url: "unix:///opa.sock"}\n' + with_one,
            "ostiary.yaml:5: candidate: needs a managed OPA (opa.managed), beside which a second one serves it\n",
        ),
    ]:
        (tmp_path / "ostiary.yaml").write_text(config + extra)
        ran = ostiary("candidate")
        assert (ran.status, ran.out, ran.err) == (2, "", told)
