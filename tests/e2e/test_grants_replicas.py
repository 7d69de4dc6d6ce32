"""Two proxies, each with a state of its own, on one PostgreSQL: what is given or taken at one is so at the other."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg
import httpx
import pytest

from ostiary.demo.issuer import DemoIssuer
from ostiary.models import Json
from support.forwarding import replies, reserved_port, response
from support.people import ASKED, people, statuses
from support.postgresql import PostgresServer
from support.proxy import ISSUER, OWN_HOST, PERMISSIONS, RunningProxy, Trusted, running_proxy
from support.upstream import RawUpstream

ELIGIBLE = f"""\
  lead: {{issuer: {ISSUER}, subject: lead}}
  eager: {{issuer: {ISSUER}, subject: eager}}
eligible:
  - {{caller: eager, service: orders, endpoints: [delete-order], approvers: [lead], max_duration: 30m}}
  - {{caller: web, service: orders, endpoints: [delete-order], approvers: [lead], max_duration: 30m}}
permissions:
"""
A_DAY: Final = 8
FOUND: Final = 1.5
"""Seconds in which a change is there, also one that nobody was told of: half a second, on a machine that is busy."""
VOID: Final = 3.0
"""Seconds after which nothing counts of a store that is not heard of: two, and what it takes to see it from here."""


class Pair(NamedTuple):
    one: RunningProxy
    other: RunningProxy


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with reserved_port() as reserved:
        yield reserved


@pytest.fixture(scope="module")
def pair(
    opa_binary: Path, server: PostgresServer, port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    trusted = Trusted(signer=DemoIssuer(tmp_path_factory.mktemp("issuer")))

    def proxy(workers: int) -> running_proxy:
        return running_proxy(
            upstreams={"orders": port},
            workers=workers,
            trusted=trusted,
            permissions=PERMISSIONS.replace("permissions:\n", ELIGIBLE),
            opa_extra="deadline: 5s",  # a busy machine is no reason to refuse
            config_extra=f'grants: {{url: "{server.url}", requests_per_day: {A_DAY}}}\n',
        )

    with proxy(2) as one, proxy(1) as other:
        yield Pair(one, other)


@pytest.fixture(autouse=True)
async def upstream(pair: Pair, port: int) -> AsyncIterator[None]:
    async with RawUpstream(replies(response()), port=port).running():
        yield


@asynccontextmanager
async def granted(proxy: RunningProxy, **asked: Json) -> AsyncIterator[str]:
    """The id of a grant that was asked for and approved at this proxy, and is revoked there in the end."""
    async with people(proxy) as (web, lead, _):
        status, record = await web.post("requests", **(ASKED | asked))
        assert status == 201, record
        path = f"requests/{record['id']}"
        status, approved = await lead.post(f"{path}/approve", digest=record["digest"])
        assert (status, approved["state"]) == (200, "active")
        yield record["id"]
        await lead.post(f"{path}/revoke", reason="done")


async def revoke(proxy: RunningProxy, grant: str) -> None:
    async with people(proxy) as (_, lead, _):
        status, record = await lead.post(f"requests/{grant}/revoke", reason="an incident")
        assert (status, record["state"]) == (200, "revoked")


async def until(proxy: RunningProxy, status: int, *, seconds: float) -> None:
    """All are answered so within so many seconds, and once they are they stay it."""
    began = time.monotonic()
    while (found := await statuses(proxy, times=4)) != {status: 4}:
        assert time.monotonic() - began < seconds, found
        await asyncio.sleep(0.02)
    assert await statuses(proxy) == {status: 16}


async def listening(server: PostgresServer, *, ended: bool = False) -> int:
    """How many connections listen. They are ended, as by an administrator, if `ended`."""
    connection = await asyncpg.connect(server.url)
    what = "pg_terminate_backend(pid)" if ended else "pid"
    rows = await connection.fetch(f"SELECT {what} FROM pg_stat_activity WHERE query LIKE 'LISTEN %'")
    await connection.close()
    return len(rows)


async def test_what_is_approved_at_one_is_used_at_the_other_and_what_is_revoked_there_ends_here(pair: Pair) -> None:
    assert await statuses(pair.one) == await statuses(pair.other) == {403: 16}
    async with granted(pair.one) as grant:
        assert await statuses(pair.one) == {200: 16}
        await until(pair.other, 200, seconds=FOUND)
        await revoke(pair.other, grant)
        assert await statuses(pair.other) == {403: 16}
        await until(pair.one, 403, seconds=FOUND)
    for proxy in pair:
        assert await statuses(proxy, method="GET") == {200: 16}


async def test_of_so_many_uses_exactly_so_many_are_let_through_by_both_together(pair: Pair) -> None:
    async with granted(pair.one, max_uses=31):
        began = time.monotonic()
        while await statuses(pair.other, times=1) != {200: 1}:
            assert time.monotonic() - began < FOUND
        at_one, at_other = await asyncio.gather(*(statuses(proxy, times=25) for proxy in pair))
        assert at_one + at_other == Counter({200: 30, 403: 20})  # more than one of them alone was asked for


async def test_one_identity_asks_so_often_a_day_at_both_together(pair: Pair) -> None:
    answers = []
    if (left := 86400 - time.time() % 86400) < 20:  # the day ends
        await asyncio.sleep(left + 1)
    async with httpx.AsyncClient(trust_env=False) as client:
        for proxy in (*pair, *pair) * 3:
            headers = {"host": OWN_HOST, "authorization": f"Bearer {proxy.token('eager')}"}
            answers.append(await client.post(proxy.url("/access/requests"), headers=headers, json=ASKED))
    assert [answer.status_code for answer in answers] == [201] * A_DAY + [429] * 4
    assert answers[-1].json()["reasons"] == ["too-many-asked"]
    left = 86400 - time.time() % 86400
    assert left - 60 < int(answers[-1].headers["retry-after"]) <= left + 60


async def test_while_postgresql_hangs_no_grant_counts_and_permissions_do(pair: Pair, server: PostgresServer) -> None:
    async with granted(pair.one):
        await until(pair.other, 200, seconds=FOUND)
        server.pause()
        try:
            await asyncio.gather(*(until(proxy, 403, seconds=VOID) for proxy in pair))
            for proxy in pair:
                assert await statuses(proxy, method="GET") == {200: 16}
                await says(proxy, "PostgreSQL: no answer within 2 s")
        finally:
            server.go_on()
        for proxy in pair:
            await until(proxy, 200, seconds=10)
            await says(proxy, "available")


async def test_what_a_connection_that_was_ended_did_not_hear_is_found_by_looking(
    pair: Pair, server: PostgresServer
) -> None:
    async with granted(pair.one) as grant:
        await until(pair.other, 200, seconds=FOUND)
        assert await listening(server, ended=True) == 2
        await revoke(pair.one, grant)
        await until(pair.other, 403, seconds=FOUND)
    began = time.monotonic()
    while await listening(server) != 2:
        assert time.monotonic() - began < 10
        await asyncio.sleep(0.1)
    async with granted(pair.other):
        await until(pair.one, 200, seconds=FOUND)


async def says(proxy: RunningProxy, told: str) -> None:
    began = time.monotonic()
    while (found := (await asyncio.to_thread(proxy.health))[1]["grants"]) != told:
        assert time.monotonic() - began < 10, found
        await asyncio.sleep(0.1)
