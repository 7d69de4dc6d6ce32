"""Parts that die, hang, are replaced or are taken away under a proxy that serves: no access without a decision or a
record, and service by itself once the part is back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ostiary import assets
from ostiary.policy.bundle import build_bundle
from support.faults import asked, changed_proxy, eventually, free_port, status_of, stopped
from support.forwarding import replies, response
from support.proxy import PERMISSIONS, RunningProxy, running_proxy
from support.upstream import Authority, RawUpstream, Script, Seen, UpstreamConnection, until

Orders = Callable[[Script], AbstractAsyncContextManager[RawUpstream]]
WITHOUT_ORDER_42 = PERMISSIONS.replace("list-orders, get-order, head-order", "list-orders, head-order")


async def hangs(connection: UpstreamConnection, seen: Seen) -> None:
    await connection.body(seen)
    await connection.closed()


def publish(proxy: RunningProxy, permissions: str, *, sequence: int, opa: Path) -> str:
    """Build the policy anew into the bundle directory that OPA serves; its revision."""
    (proxy.place / "policy" / "permissions.yaml").write_text(permissions)
    built = build_bundle(proxy.place / "policy", proxy.bundle, opa=opa, sequence=sequence, rego_root=assets.rego())
    return built.revision


async def test_opa_killed_is_503_and_back_by_itself(proxy: RunningProxy, orders: Orders) -> None:
    async with orders(replies(response())) as upstream:
        assert await asyncio.to_thread(status_of, proxy) == 200
        killed = proxy.opa_pid
        os.kill(killed, signal.SIGKILL)
        assert await asyncio.to_thread(asked, proxy, tenant="killed") == (503, ["policy-unavailable"])
        down = await asyncio.to_thread(proxy.health)
        assert (down[0], down[1]["policy"]) == (503, "down")
        assert len(upstream.requests) == 1
        await eventually(lambda: status_of(proxy, tenant="killed") == 200)
        await eventually(lambda: proxy.health()[0] == 200)
        assert proxy.opa_pid != killed


async def test_an_opa_that_hangs_is_503_within_the_deadline(proxy: RunningProxy, orders: Orders) -> None:
    """While it stands still nothing is allowed but what was a moment ago, and health says so; what it was asked
    meanwhile changes nothing."""
    async with orders(replies(response())) as upstream:
        assert await asyncio.to_thread(status_of, proxy, tenant="before") == 200
        with stopped(proxy.opa_pid):
            assert await asyncio.to_thread(status_of, proxy, tenant="before") == 200
            began = time.monotonic()
            answers = await asyncio.gather(*(asyncio.to_thread(asked, proxy, tenant="hangs") for _ in range(8)))
            assert time.monotonic() - began < 8  # the deadline is 250 ms
            assert answers == [(503, ["policy-unavailable"])] * 8
            async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                refused = await client.get(proxy.url("/orders/42"), headers=proxy.headers("web", tenant="hangs"))
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            down = await asyncio.to_thread(proxy.health)
            assert (down[0], down[1]["policy"]) == (503, "down")
            assert len(upstream.requests) == 2
        await eventually(lambda: status_of(proxy, tenant="hangs") == 200)
        await eventually(lambda: proxy.health()[0] == 200)


async def test_who_asks_for_too_many_decisions_is_told_when_to_come_again(opa_binary: Path) -> None:
    """429 and never a skipped decision; what is kept costs no decision, and others are not held back."""
    async with (
        RawUpstream(replies(response())).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, config_extra="limits: {decisions_per_second: 1}\n") as proxy,
    ):
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            # Other claims are another decision, of the same identity.
            answers = [
                await client.get(proxy.url("/orders"), headers=proxy.headers("web", tenant=f"t{number}"))
                for number in range(12)
            ]
            refused = [answer for answer in answers if answer.status_code != 200]
            assert [answer.status_code for answer in answers[:2]] == [200, 200]
            assert {answer.status_code for answer in refused} == {429}
            assert refused[0].json()["reasons"] == ["too-many-decisions"]
            assert refused[0].headers["retry-after"] == "1"
            kept = await client.get(proxy.url("/orders"), headers=proxy.headers("web", tenant="t1"))
            other = await client.get(proxy.url("/orders"), headers=proxy.headers("reporting"))
            assert (kept.status_code, other.status_code) == (200, 200)
        assert len(upstream.requests) == len(answers) - len(refused) + 2


async def test_one_identity_leaves_half_of_a_service_s_connections_to_others(opa_binary: Path) -> None:
    """However slowly it sends. What it is refused is recorded: it was permitted."""
    async with (
        RawUpstream(replies(response())).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, config_extra="limits: {upstream_connections: 2}\n") as proxy,
    ):
        _, slow = await asyncio.open_connection("127.0.0.1", proxy.port)
        lines = [f"{name}: {value}\r\n" for name, value in {**proxy.headers("web"), "Content-Length": "9"}.items()]
        slow.write(f"POST /orders HTTP/1.1\r\n{''.join(lines)}\r\na".encode())
        await until(lambda: bool(upstream.requests))
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            refused = await client.get(proxy.url("/orders"), headers=proxy.headers("web", tenant="another"))
            other = await client.get(proxy.url("/orders"), headers=proxy.headers("reporting"))
        assert (refused.status_code, refused.json()["reasons"]) == (429, ["too-many-requests"])
        assert (refused.headers["retry-after"], other.status_code) == ("1", 200)
        decision_id = refused.headers["ostiary-decision-id"]

        def recorded() -> list[dict[str, Any]]:
            return [line for line in proxy.audit_lines() if line.get("decision_id") == decision_id]

        await eventually(lambda: [line["kind"] for line in recorded()] == ["decision", "completion"])
        end = recorded()[1]
        assert (end["outcome"], end["status"], end["reasons"]) == ("refused", 429, ["too-many-requests"])
        slow.transport.abort()


async def test_an_upstream_that_is_not_there_is_502(proxy: RunningProxy) -> None:
    assert await asyncio.to_thread(asked, proxy) == (502, ["upstream-failed"])


async def test_an_upstream_that_hangs_is_504_by_the_configured_limit(opa_binary: Path) -> None:
    async with (
        RawUpstream(hangs).running() as upstream,
        running_proxy(
            upstreams={"orders": upstream.port}, config_extra="limits: {first_byte_timeout: 300ms}\n"
        ) as proxy,
    ):
        began = time.monotonic()
        assert await asyncio.to_thread(asked, proxy) == (504, ["upstream-timeout"])
        assert 0.3 <= time.monotonic() - began < 20  # and not by the usual one, which is longer


@asynccontextmanager
async def light_load(proxy: RunningProxy, path: str) -> AsyncIterator[list[int]]:
    """Requests for a path, one after the other on one connection; the statuses, as they come."""
    statuses: list[int] = []

    async def ask() -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            headers = proxy.headers("web")
            while True:
                statuses.append((await client.get(proxy.url(path), headers=headers)).status_code)
                await asyncio.sleep(0.01)

    asking = asyncio.create_task(ask())
    try:
        yield statuses
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def test_a_new_bundle_is_enforced_and_costs_no_request(opa_binary: Path) -> None:
    """An older one is not taken over, however it gets there, and stays refused when OPA has to be started again."""
    async with (
        RawUpstream(replies(response())).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}) as proxy,
    ):
        async with light_load(proxy, "/orders") as statuses:
            for sequence, permissions, expected in ((2, WITHOUT_ORDER_42, 403), (3, PERMISSIONS, 200)):
                revision = await asyncio.to_thread(publish, proxy, permissions, sequence=sequence, opa=opa_binary)
                await eventually(lambda: status_of(proxy) == expected)  # noqa: B023 - called in this turn
                await eventually(lambda: proxy.health()[1]["revision"] == revision)  # noqa: B023 - as above
        assert len(statuses) > 20
        assert set(statuses) == {200}

        await asyncio.to_thread(publish, proxy, WITHOUT_ORDER_42, sequence=1, opa=opa_binary)
        await eventually(lambda: "is not taken over" in proxy.log_text())
        assert await asyncio.to_thread(status_of, proxy) == 200
        assert proxy.health()[1]["revision"] == revision


async def test_a_policy_that_nobody_can_confirm_goes_stale_and_comes_back(opa_binary: Path) -> None:
    """OPA would serve for ever. A limit shorter than the usual time between two looks makes nothing stale by itself."""
    async with (
        RawUpstream(replies(response())).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, opa_extra="max_policy_age: 2s") as proxy,
    ):
        async with light_load(proxy, "/orders") as statuses:
            await asyncio.sleep(2.5)
        assert set(statuses) == {200}
        proxy.bundle.rename(proxy.place / "gone")
        await eventually(lambda: asked(proxy) == (503, ["policy-stale"]))
        await eventually(lambda: (proxy.health()[0], proxy.health()[1]["policy"]) == (503, "stale"))  # its own look
        (proxy.place / "gone").rename(proxy.bundle)
        await eventually(lambda: status_of(proxy) == 200)
        await eventually(lambda: proxy.health()[0] == 200)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose name leaves room for that of a unix socket."""
    with tempfile.TemporaryDirectory(prefix="ost-", dir="/tmp") as place:
        yield Path(place)


@pytest.mark.parametrize("way", ["unix", "http", "https"])
async def test_the_opa_of_another_is_asked_and_missed(
    opa_binary: Path, tmp_path: Path, short_path: Path, way: str
) -> None:
    """Its policy decides; without it nothing is allowed; once it is there again it decides again."""
    (tmp_path / "permissions.yaml").write_text(PERMISSIONS)
    bundle = build_bundle(tmp_path, tmp_path / "bundle", opa=opa_binary, sequence=1, rego_root=assets.rego()).path
    port = free_port()
    address = f"unix://{short_path}/opa.sock" if way == "unix" else f"{way}://127.0.0.1:{port}"
    listening = ["--addr", address]
    settings = f'{{url: "{address}"}}'
    if way == "https":
        authority = Authority(tmp_path, "private")
        certificate, key = authority.issue("127.0.0.1")
        listening += [f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}"]
        settings = f'{{url: "{address}", ca_file: {authority.ca_file}}}'
    command = [opa_binary, "run", "--server", "--skip-version-check", "--log-level=error", *listening]
    command += ["--ignore=*_test.rego", "--bundle", bundle]

    @asynccontextmanager
    async def running_opa() -> AsyncIterator[asyncio.subprocess.Process]:
        opa = await asyncio.create_subprocess_exec(*command)
        try:
            yield opa
        finally:
            if opa.returncode is None:
                opa.kill()
            await opa.wait()

    async with RawUpstream(replies(response())).running() as upstream:
        async with running_opa() as opa:
            starting = changed_proxy(
                upstreams={"orders": upstream.port}, changes={"{managed: {bundle: bundle}}": settings}
            )
            proxy = await starting.__aenter__()
            assert await asyncio.to_thread(status_of, proxy) == 200
            assert await asyncio.to_thread(status_of, proxy, subject="reporting") == 403
            opa.kill()
            await opa.wait()
            assert await asyncio.to_thread(asked, proxy, tenant="missed") == (503, ["policy-unavailable"])
            down = await asyncio.to_thread(proxy.health)
            assert (down[0], down[1]["policy"]) == (503, "down")
        async with running_opa():
            await eventually(lambda: status_of(proxy) == 200)
            await eventually(lambda: proxy.health()[0] == 200)
        await starting.__aexit__(None, None, None)


async def test_an_audit_that_is_taken_away_refuses_until_it_can_be_written(proxy: RunningProxy, orders: Orders) -> None:
    """A directory that is gone is made again. If it cannot be, requests are refused, and nothing is forwarded."""
    async with orders(replies(response())) as upstream:
        proxy.audit.rename(proxy.place / "moved")
        assert await asyncio.to_thread(status_of, proxy) == 200  # written where it was opened
        for path in (proxy.place / "moved").iterdir():
            path.unlink()
        assert await asyncio.to_thread(status_of, proxy) == 200
        assert "decision" in {line["kind"] for line in proxy.audit_lines()}

        forwarded = len(upstream.requests)
        for path in proxy.audit.iterdir():
            path.unlink()
        proxy.audit.rmdir()
        proxy.audit.write_text("in the way")
        for _ in range(3):
            assert await asyncio.to_thread(asked, proxy) == (503, ["audit-unavailable"])
        assert len(upstream.requests) == forwarded
        unwritable = await asyncio.to_thread(proxy.health)
        assert (unwritable[0], unwritable[1]["audit"]) == (503, "unwritable")
        proxy.audit.unlink()
        await eventually(lambda: proxy.health()[0] == 200)  # without a request: nobody sends one to it until then
        assert await asyncio.to_thread(status_of, proxy) == 200
        outage = proxy.audit_lines()[0]
        assert outage["kind"] == "outage"
        assert outage["refused"] >= 3


async def test_a_worker_that_is_killed_cuts_off_its_requests_and_no_other(opa_binary: Path) -> None:
    """What it had let through has its decision on record, and no completion that would say how it ended."""
    async with (
        RawUpstream(hangs).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, workers=2) as proxy,
        httpx.AsyncClient(trust_env=False, timeout=60) as client,
    ):
        headers = proxy.headers("web")
        waiting = [asyncio.create_task(client.get(proxy.url("/orders/42"), headers=headers)) for _ in range(40)]
        await until(lambda: len(upstream.requests) == len(waiting))
        held = [{one["decision_id"] for one in lines} for lines in decided_by(proxy)]
        assert [bool(ids) for ids in held] == [True, True]
        os.kill(proxy.worker_pids[0], signal.SIGKILL)
        await until(lambda: sum(task.done() for task in waiting) == len(held[0]))
        assert all(isinstance(task.exception(), httpx.TransportError) for task in waiting if task.done())
        for task in list(upstream.tasks):
            task.cancel()  # the service gives up on the others
        answers = [
            one for one in await asyncio.gather(*waiting, return_exceptions=True) if isinstance(one, httpx.Response)
        ]
        assert {answer.status_code for answer in answers} == {502}
        assert len(answers) == len(held[1])
        await eventually(lambda: proxy.health()[0] == 200)
        completed = [line["decision_id"] for line in proxy.audit_lines() if line["kind"] == "completion"]
        assert set(completed) == held[1]


def decided_by(proxy: RunningProxy) -> list[list[dict[str, Any]]]:
    """The decisions on record, by worker."""
    return [
        [
            line
            for path in proxy.audit.glob(f"audit-{worker}-*.ndjson")
            for line in map(json.loads, path.read_bytes().splitlines())
            if line["kind"] == "decision"
        ]
        for worker in ("w0", "w1")
    ]
