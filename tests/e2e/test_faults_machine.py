"""The machine under the proxy goes wrong: clocks are stepped, names lead elsewhere or nowhere, descriptors run out."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from support.faults import asked, changed_proxy, eventually, status_of
from support.forwarding import Client, connected, replies, response
from support.machine import Machine, connections_to, cpu_seconds, descriptors, few_descriptors
from support.proxy import PERMISSIONS, RunningProxy, running_proxy
from support.upstream import Answer, RawUpstream, answers

HOUR = 3600


@pytest.fixture
def machine() -> Iterator[Machine]:
    with TemporaryDirectory(prefix="ost-", dir="/tmp") as place:
        yield Machine(Path(place))


def head(proxy: RunningProxy, path: str = "/orders/42", **claims: str) -> bytes:
    token = proxy.token("web", **claims)
    return f"GET {path} HTTP/1.1\r\nHost: orders.localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


async def recorded(proxy: RunningProxy, status: int, *, count: int) -> list[dict[str, Any]]:
    """The lines of so many requests that ended with a status, as soon as they are there."""

    def found() -> list[dict[str, Any]]:
        return [line for line in proxy.audit_lines() if line.get("status") == status]

    await eventually(lambda: len(found()) >= count)
    assert len(found()) == count
    return found()


async def asks(client: Client, request: bytes) -> Answer:
    await client.send(request)
    return await client.response()


# Clocks.


async def test_a_clock_that_is_set_forward_is_followed_and_one_that_is_set_back_revives_nothing(
    opa_binary: Path, machine: Machine
) -> None:
    """A token that was expired stays so. New workers begin with the machine's clock."""
    async with (
        RawUpstream(replies(response())).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, environment=machine.environment) as proxy,
        connected(proxy.port) as client,
    ):
        request = head(proxy)  # good for an hour
        assert (await asks(client, request)).status == 200
        machine.step(2 * HOUR)
        assert (await asks(client, request)).status == 401
        machine.step(-3 * HOUR)
        assert (await asks(client, request)).status == 401
        refusals = await recorded(proxy, 401, count=2)
        assert {line["detail"] for line in refusals} == {"claim: exp, expired"}
        assert len(upstream.requests) == 1
        os.kill(proxy.worker_pids[0], signal.SIGKILL)
        machine.step(HOUR)
        await eventually(lambda: status_of(proxy) == 200)


def with_hours(begin: int, end: int) -> str:
    """The map in which order 42 is to be had between two hours of the day (UTC)."""
    window = f'{{from: "{begin:02}:00", to: "{end:02}:00", timezone: UTC}}'
    allowed = "endpoints: [list-orders, get-order, head-order, export]}"
    return PERMISSIONS.replace(allowed, f"{allowed[:-1]}, when: {{hours: {window}}}}}")


async def test_hours_follow_a_clock_that_is_stepped_at_once(opa_binary: Path, machine: Machine) -> None:
    """However warm the cache is. Set back, the clock does not open the window again."""
    now = time.gmtime().tm_hour
    async with (
        RawUpstream(replies(response())).running() as upstream,
        running_proxy(
            upstreams={"orders": upstream.port},
            permissions=with_hours((now - 3) % 24, (now + 3) % 24),
            environment=machine.environment,
        ) as proxy,
        connected(proxy.port) as client,
    ):
        # Good for the whole day, of the machine's clock and of the proxy's.
        later = head(proxy, iat=int(time.time()) + 6 * HOUR - 60, exp=int(time.time()) + 6 * HOUR + 600)  # type: ignore[arg-type]
        for _ in range(5):
            assert (await asks(client, head(proxy))).status == 200
        machine.step(6 * HOUR)
        refused = await asks(client, later)
        assert (refused.status, b"condition-hours" in refused.body) == (403, True)
        machine.step(-6 * HOUR)
        refused = await asks(client, later)
        assert (refused.status, b"condition-hours" in refused.body) == (403, True)
        assert len(upstream.requests) == 5


async def test_a_clock_that_jumps_past_the_policys_age_stops_access_until_the_policy_is_confirmed(
    opa_binary: Path, machine: Machine
) -> None:
    """By itself, with the next look."""
    jump = 30 * 24 * HOUR
    async with (
        RawUpstream(replies(response())).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, environment=machine.environment) as proxy,
        connected(proxy.port) as client,
    ):
        assert (await asks(client, head(proxy))).status == 200
        machine.step(jump)
        later = int(time.time()) + jump
        request = head(proxy, iat=later, exp=later + 600)  # type: ignore[arg-type]
        first = await asks(client, request)
        assert (first.status, b"policy-stale" in first.body) in (
            (503, True),
            (200, False),
        )  # a look may have been quicker
        assert len(upstream.requests) == (1 if first.status == 503 else 2)
        async with asyncio.timeout(60):
            while (await asks(client, request)).status != 200:  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.05)


# Names.


@asynccontextmanager
async def two_services(
    machine: Machine, **settings: str
) -> AsyncIterator[tuple[RunningProxy, RawUpstream, RawUpstream]]:
    """A proxy whose service is a name, and two that listen on one port of two addresses."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(RawUpstream(replies(response(b"first"))).running())
        second = await stack.enter_async_context(
            RawUpstream(replies(response(b"second")), host="127.0.0.2", port=first.port).running()
        )
        machine.resolve({"orders.test": "127.0.0.1"})
        proxy = await stack.enter_async_context(
            changed_proxy(
                upstreams={"orders": first.port},
                changes={f"http://127.0.0.1:{first.port}": f"http://orders.test:{first.port}"},
                environment=machine.environment,
                **settings,  # type: ignore[arg-type]
            )
        )
        yield proxy, first, second


async def test_a_name_that_does_not_resolve_is_502_until_it_does(opa_binary: Path, machine: Machine) -> None:
    """Connections that are open go on meanwhile. Whoever waits for the resolver holds up nobody."""
    limits = "limits: {upstream_keep_alive: 1h}\n"
    async with (
        two_services(machine, config_extra=limits) as (proxy, first, second),
        connected(proxy.port) as client,
    ):
        assert (await asks(client, head(proxy))).body == b"first"
        machine.resolve(None)
        assert (await asks(client, head(proxy))).body == b"first"
        for task in first.tasks:
            task.cancel()  # the service restarts, and its connections are gone
        for names in (None, {}):
            machine.resolve(names)
            for _ in range(3):
                refused = await asks(client, head(proxy))
                assert (refused.status, b'"upstream-failed"' in refused.body) == (502, True)
                assert b"orders.test" not in refused.body
        machine.resolve({"orders.test": "127.0.0.1"})
        assert (await asks(client, head(proxy))).body == b"first"
        assert second.connections == 0
        failed = await recorded(proxy, 502, count=6)
        assert all("no connection to the upstream" in line["detail"] for line in failed)


async def test_a_name_that_leads_elsewhere_is_followed_under_load(opa_binary: Path, machine: Machine) -> None:
    """By new connections at once, and by those that are always in use when their time is over; no request fails."""
    limits = "limits: {upstream_connection_age: 1s}\n"
    async with (
        two_services(machine, config_extra=limits) as (proxy, first, _),
        connected(proxy.port) as client,
    ):
        request = head(proxy)
        bodies = [(await asks(client, request)).body for _ in range(20)]
        assert set(bodies) == {b"first"}
        machine.resolve({"orders.test": "127.0.0.2"})
        async with asyncio.timeout(60):
            while (answer := await asks(client, request)).body != b"second":
                assert (answer.status, answer.body) == (200, b"first")
        asked_before = len(first.requests)
        assert {(await asks(client, request)).body for _ in range(20)} == {b"second"}
        assert len(first.requests) == asked_before


SECRETS = {
    "169.254.169.254": "link-local",
    "100.100.100.200": "an instance metadata service",
    "0.0.0.0": "unspecified",
    "224.0.0.1": "multicast",
}


async def test_a_name_that_leads_to_the_machines_own_secrets_is_not_followed(
    opa_binary: Path, machine: Machine
) -> None:
    """Whenever it begins to (SECURITY section 8: DNS rebinding)."""
    limits = "limits: {upstream_keep_alive: 0s}\n"
    async with (
        two_services(machine, config_extra=limits) as (proxy, first, _),
        connected(proxy.port) as client,
    ):
        assert (await asks(client, head(proxy))).status == 200
        for address in SECRETS:
            machine.resolve({"orders.test": address})
            await eventually(lambda: asked(proxy) == (502, ["upstream-failed"]))
        machine.resolve({"orders.test": "127.0.0.1"})
        assert (await asks(client, head(proxy))).status == 200
        assert {seen.line for seen in first.requests} == {"GET /orders/42 HTTP/1.1"}
        assert {line["detail"] for line in await recorded(proxy, 502, count=4)} == {
            f"{address} is no address of an upstream: {why}" for address, why in SECRETS.items()
        }


# Descriptors.


async def is_cut_off(proxy: RunningProxy) -> bool:
    """Whether a new client is cut off without an answer."""
    try:
        async with connected(proxy.port) as client:
            await client.send(head(proxy))
            return await client.ended() == b""
    except OSError:
        return True


async def test_a_worker_without_descriptors_refuses_and_neither_dies_nor_spins(opa_binary: Path) -> None:
    """New clients are cut off; those that are there are told 503, since nothing can be forwarded; and it all passes."""
    closing = answers(response(b"well"), close=True)
    async with (
        RawUpstream(closing).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}) as proxy,
        connected(proxy.port) as client,
    ):
        (worker,) = proxy.worker_pids
        assert (await asks(client, head(proxy))).body == b"well"
        await eventually(lambda: connections_to(upstream.port) == 0)  # else its end would leave one to use
        before = descriptors(worker)
        with few_descriptors(worker, spare=0):
            used = cpu_seconds(worker)
            refused = await asks(client, head(proxy))
            assert (refused.status, b'"overloaded"' in refused.body) == (503, True)
            assert all(await asyncio.gather(*(is_cut_off(proxy) for _ in range(20))))
            denied = await asks(client, head(proxy, path="/nowhere"))
            assert denied.status == 403  # OPA and the audit have theirs
            await asyncio.sleep(2)
            assert cpu_seconds(worker) - used < 1
        assert (await asks(client, head(proxy))).body == b"well"
        assert await asyncio.to_thread(asked, proxy) == (200, [])
        assert proxy.worker_pids == [worker]
        assert len(upstream.requests) == 3
        await eventually(lambda: descriptors(worker) <= before)
        assert [len(await recorded(proxy, status, count=count)) for status, count in ((200, 3), (503, 1), (403, 1))]


async def test_a_supervisor_without_descriptors_restarts_a_worker_when_it_has_some(opa_binary: Path) -> None:
    async with (
        RawUpstream(replies(response())).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, workers=2) as proxy,
    ):
        with few_descriptors(proxy.pid, spare=0):
            os.kill(proxy.worker_pids[0], signal.SIGKILL)
            await eventually(lambda: "w0 cannot be started, tried again in" in proxy.log_text())
            for _ in range(10):
                assert await asyncio.to_thread(status_of, proxy) == 200
        await eventually(lambda: proxy.health()[0] == 200)
        assert len(proxy.worker_pids) == 2


@pytest.mark.parametrize(("soft", "hard", "allowed"), [(256, 1000, 678), (256, 300, 300), (700, 1000, 700)])
def test_a_worker_takes_the_descriptors_that_its_limits_need_if_it_may(soft: int, hard: int, allowed: int) -> None:
    """And says so where it may not."""
    program = (
        "import resource, logging; from ostiary.listening import allow_descriptors; logging.basicConfig()\n"
        "allow_descriptors(678, by='they'); print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run(
        ["/bin/sh", "-c", f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$0" -c "$1"', sys.executable, program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"({allowed}, {hard})\n"
    assert ("they need 678 open files, and 300 are allowed (ulimit -n)" in done.stderr) is (allowed < 678)


async def test_a_worker_asks_for_as_many_as_its_connections(opa_binary: Path) -> None:
    mine = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = "limits: {connections: 500, upstream_connections: 50}\n"
    starting = running_proxy(upstreams={"orders": 9}, config_extra=limits)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, mine[1]))
    try:
        proxy = await starting.__aenter__()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, mine)
    assert resource.prlimit(proxy.worker_pids[0], resource.RLIMIT_NOFILE)[0] == 500 + 50 + 128
    await starting.__aexit__(None, None, None)
