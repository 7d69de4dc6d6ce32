"""What was let through ends when it would be let through no longer: streams, uploads, and who waits for an answer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ostiary.clock import written_instant
from ostiary.demo.issuer import DemoIssuer
from support.forwarding import Client, Request, connected, reserved_port
from support.opa import until
from support.proxy import PERMISSIONS, RunningProxy, Trusted, running_proxy
from support.publishing import Policy
from support.streams import cut, endless, flows
from support.upstream import RawUpstream, UpstreamConnection

LEEWAY = 1
WITHOUT_WEB = "".join(line for line in PERMISSIONS.splitlines(keepends=True) if "{caller: web," not in line)
OBSERVED = "observe:\n  orders: {{until: {end}}}\n"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with reserved_port() as reserved:
        yield reserved


@pytest.fixture(scope="module")
def proxy(opa_binary: Path, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    issuer = DemoIssuer(tmp_path_factory.mktemp("issuer"))
    with running_proxy(
        upstreams={"orders": port},
        workers=2,
        opa_extra="deadline: 5s",  # a busy machine is no reason to refuse
        trusted=Trusted(signer=issuer, options=f"leeway: {LEEWAY}s"),
    ) as running:
        yield running


@pytest.fixture(scope="module")
def policy(proxy: RunningProxy, opa_binary: Path) -> Policy:
    return Policy(proxy, opa_binary)


class Orders:
    """The service: streams to whoever asks, but for `/orders/silent`, which is never answered. `cut` counts the
    connections that the proxy ended."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.cut = 0

    async def __call__(self, connection: UpstreamConnection, seen: Request) -> None:
        self.arrived.set()
        try:
            if seen.line.startswith("PUT"):
                await connection.body(seen)
            elif "/silent" in seen.line:
                await connection.closed()
            else:
                await endless(connection, seen)
        except (asyncio.IncompleteReadError, OSError):
            pass
        self.cut += 1


@asynccontextmanager
async def clients(proxy: RunningProxy, number: int) -> AsyncIterator[list[Client]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connected(proxy.port)) for _ in range(number)]


async def begin(
    proxy: RunningProxy, client: Client, line: str, *, subject: str = "web", fields: str = "", **claims: int | str
) -> None:
    headers = "".join(f"{name}: {value}\r\n" for name, value in proxy.headers(subject, **claims).items())  # type: ignore[arg-type]
    await client.send(f"{line} HTTP/1.1\r\n{headers}{fields}\r\n".encode())


async def streamed(proxy: RunningProxy, client: Client, line: str, *, subject: str = "web", **claims: int) -> str:
    """Open a stream, and the id of its decision."""
    await begin(proxy, client, line, subject=subject, **claims)
    head = await client.head()
    assert head.status == 200
    (decision,) = head.values("ostiary-decision-id")
    return decision


async def test_a_bundle_that_allows_it_no_longer_ends_what_is_open_and_leaves_what_it_allows(
    proxy: RunningProxy, port: int, policy: Policy
) -> None:
    """A stream, an upload and one that waits for its answer, all of one caller, beside another caller's stream."""
    orders = Orders()
    async with RawUpstream(orders, port=port).running(), clients(proxy, 4) as (stream, upload, waiting, other):
        decision = await streamed(proxy, stream, "GET /orders/42")
        await streamed(proxy, other, "GET /orders", subject="reporting")
        await begin(proxy, upload, "PUT /orders/42", fields="transfer-encoding: chunked\r\n")
        orders.arrived.clear()
        await upload.chunk(b"a piece")
        await orders.arrived.wait()
        orders.arrived.clear()
        await begin(proxy, waiting, "GET /orders/silent")
        await orders.arrived.wait()
        await policy.publish(PERMISSIONS + "# the same\n")
        assert await flows(stream)
        revision = await policy.publish(WITHOUT_WEB)
        assert await cut(stream) < 1
        answer = await waiting.response()
        refused = await upload.response()
        assert (answer.status, refused.status) == (403, 403)
        assert b'"permission-missing"' in answer.body
        assert await flows(other)
        await until(lambda: orders.cut == 3)
        completion = (await proxy.recorded(decision, lines=2))[-1]
        await policy.publish(PERMISSIONS)
        assert await flows(other)
    assert (completion["kind"], completion["outcome"], completion["status"]) == ("completion", "aborted", 200)
    assert completion["reasons"] == ["permission-missing"]
    assert completion["detail"] == f"judged again, by the bundle {revision}"


@asynccontextmanager
async def asked_all_the_while(proxy: RunningProxy) -> AsyncIterator[list[int]]:
    """One after the other, denied requests of `web`, each of which takes a decision of its own; what was answered."""
    answers: list[int] = []

    async def keep_asking(client: Client, number: int) -> None:
        for each in itertools.count():
            await begin(proxy, client, "DELETE /orders/42", tenant=f"{number}-{each}")
            answers.append((await client.response()).status)

    async with clients(proxy, 2) as several:
        asking = [asyncio.create_task(keep_asking(client, number)) for number, client in enumerate(several)]
        try:
            yield answers
        finally:
            for each in asking:
                each.cancel()
            await asyncio.gather(*asking, return_exceptions=True)


async def test_nobody_keeps_a_stream_by_asking_for_too_many_decisions(opa_binary: Path) -> None:
    """Whether what is open may go on is a question of the proxy, and not of the caller who has none left."""
    async with RawUpstream(Orders()).running() as upstream:
        with running_proxy(
            upstreams={"orders": upstream.port},
            opa_extra="deadline: 5s",
            config_extra="limits: {decisions_per_second: 1}\n",
        ) as proxy:
            policy = Policy(proxy, opa_binary)
            async with clients(proxy, 1) as (stream,):
                await streamed(proxy, stream, "GET /orders/42")
                async with asked_all_the_while(proxy) as answers:
                    await until(lambda: answers.count(429) > 10)
                    await policy.publish(WITHOUT_WEB)
                    assert await cut(stream) < 5  # a policy that gives no answer has ten seconds
                    assert 429 in answers[-20:]


async def test_a_stream_ends_when_its_token_is_accepted_no_longer(proxy: RunningProxy, port: int) -> None:
    async with RawUpstream(endless, port=port).running(), clients(proxy, 2) as (short, long):
        ends = int(time.time()) + 2 + LEEWAY
        decision = await streamed(proxy, short, "GET /orders/42", lifetime=2)
        await streamed(proxy, long, "GET /orders/42")
        await cut(short)
        assert ends - 0.1 <= time.time() <= ends + 2
        assert await flows(long)
        completion = (await proxy.recorded(decision, lines=2))[-1]
    assert (completion["outcome"], completion["reasons"]) == ("aborted", ["identity-invalid"])
    assert completion["detail"] == "it expired while the exchange was under way"


async def test_what_is_only_observed_ends_with_the_observation(proxy: RunningProxy, port: int, policy: Policy) -> None:
    async with RawUpstream(endless, port=port).running(), clients(proxy, 2) as (observed, permitted):
        ends = int(time.time()) + 10
        await policy.publish(PERMISSIONS + OBSERVED.format(end=written_instant(ends)))
        decision = await streamed(proxy, observed, "GET /orders/42", subject="reporting")
        await streamed(proxy, permitted, "GET /orders/42")
        await cut(observed)
        assert ends - 0.1 <= time.time() <= ends + 2
        assert await flows(permitted)
        completion = (await proxy.recorded(decision, lines=2))[-1]
    assert (completion["outcome"], completion["reasons"]) == ("aborted", ["permission-missing"])
    assert "ended while" in completion["detail"]
