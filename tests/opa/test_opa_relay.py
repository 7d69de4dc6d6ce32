"""OPA's reports go through the proxy to a bundle server, and the proxy looks at OPA for each."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ostiary.admin.app import admin_application
from ostiary.admin.health import Health
from ostiary.decision.verdict import LARGEST_REPORT, Verdict
from ostiary.distribution.access import Access, TokenFile
from ostiary.opa.relay import ReportRelay
from support.distribution import PUBLISHER, READER, archive, aside, local, long_polling, opa_client, token_file
from support.faults import free_port
from support.opa import until
from support.served import served


async def no_metrics(_: str) -> tuple[bytes, str]:
    raise AssertionError


async def no_health() -> Health:
    raise AssertionError("it was not asked for")


GOOD = Verdict(active="2-b", counts="2-b", refused=None)
BAD = Verdict(active="3-c", counts="2-b", refused="the bundle 3-c " + "x" * 1000)


async def good() -> Verdict:
    return GOOD


@pytest.fixture
def published(tmp_path: Path) -> Path:
    (tmp_path / "published").mkdir()
    archive(tmp_path / "published" / "shop.tar.gz", 1)
    return tmp_path / "published"


async def test_a_real_opa_s_report_reaches_both(published: Path, tmp_path: Path, opa_binary: Path) -> None:
    readers, publishers = token_file(tmp_path / "r", READER), token_file(tmp_path / "p", PUBLISHER)
    (tmp_path / "token").write_text(f"{READER}\n")
    access = Access(readers=[TokenFile(readers)], publishers=[TokenFile(publishers)])
    nudges: list[None] = []
    async with (
        local(published, access=access) as server,
        ReportRelay(url=server.address, judged=good, token_file=tmp_path / "token") as relay,
        served(
            admin_application(
                no_health, policy_nudged=lambda: nudges.append(None), scrape=no_metrics, reported=relay.pass_on
            )
        ) as admin,
    ):
        config: dict[str, Any] = long_polling(int(server.address.rpartition(":")[2]), token=READER, proxy="orders-1")
        config["services"]["proxy"] = {"url": admin}
        config["status"] = {"service": "proxy"}

        async def known() -> list[str]:
            async with httpx.AsyncClient(headers={"authorization": f"Bearer {PUBLISHER}"}) as client:
                proxies = (await client.get(server.url("status"))).json()["proxies"]
                return [f"{one['proxy']} {one['revision']}" for one in proxies]

        async with aside(opa_client(opa_binary, tmp_path / "opa", config)):
            async with asyncio.timeout(60):
                while await known() != ["orders-1 1-0a1b2c3d"]:  # noqa: ASYNC110 - it happens in other processes
                    await asyncio.sleep(0.02)
                assert nudges
                archive(published / "shop.tar.gz", 2)
                while await known() != ["orders-1 2-0a1b2c3d"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)


async def test_the_latest_report_is_passed_on_when_that_is_possible_again(
    published: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    async with ReportRelay(url=f"http://127.0.0.1:{port}/", judged=good, first_pause=0.05, longest_pause=0.1) as relay:
        for report in (b"first", b"second"):
            relay.pass_on(report)
            await until(lambda: bool(caplog.records))
        async with taking(port) as taken:
            await until(lambda: bool(taken))
            relay.pass_on(b"third")
            await until(lambda: len(taken) == 2)
    assert taken == [b"second", b"third"]
    said = f"reports of OPA's are not passed on to http://127.0.0.1:{port}/status: ConnectError: "
    assert [record.message for record in caplog.records if record.message.startswith(said)] == [
        caplog.records[0].message
    ]


async def test_a_token_file_counts_as_it_is_checked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What `ostiary check` takes for no bearer token is not sent, and what is put there instead is."""
    token, port = tmp_path / "token", free_port()
    token.write_text("two words\n")
    async with (
        taking(port) as taken,
        ReportRelay(url=f"http://127.0.0.1:{port}", judged=good, token_file=token, first_pause=0.05) as relay,
    ):
        relay.pass_on(b"[]")
        await until(lambda: bool(caplog.records))
        assert taken == []
        token.write_text(f"{READER}\n")
        await until(lambda: bool(taken))
    (said,) = [record.message for record in caplog.records if record.name == "ostiary.opa"]
    assert said.endswith(f"/status: the token file {token} holds no bearer token")


async def test_a_report_is_passed_on_with_the_verdict_and_again_when_that_changes() -> None:
    """Each time once, however often the proxy looks; and with what the proxy says, whatever the report says of it."""
    now = GOOD

    async def judged() -> Verdict:
        relay.look_again(now)  # as after each look
        return now

    port = free_port()
    async with taking(port) as taken, ReportRelay(url=f"http://127.0.0.1:{port}", judged=judged) as relay:
        relay.look_again(BAD)  # there is nothing to pass on yet
        relay.pass_on(b'{"labels": {"id": "o"}, "ostiary": {"counts": "9-z"}}')
        await until(lambda: len(taken) == 1)
        relay.look_again(GOOD)
        now = BAD
        relay.look_again(BAD)
        await until(lambda: len(taken) == 2)
        relay.look_again(BAD)
        relay.pass_on(b"[]")
        await until(lambda: len(taken) == 3)
    told = [
        {"active": "2-b", "counts": "2-b", "refused": None},
        {"active": "3-c", "counts": "2-b", "refused": f"the bundle 3-c {'x' * 285}"},
    ]
    assert [json.loads(one) for one in taken[:2]] == [{"labels": {"id": "o"}, "ostiary": one} for one in told]
    assert taken[2] == b"[]"


async def test_the_longest_report_is_taken_with_the_longest_verdict(published: Path) -> None:
    digest = "d" * 128
    longest = Verdict(active=f"{10**18}-{digest}", counts=f"{10**18}-{digest}", refused="\0" * 300)

    async def judged() -> Verdict:
        return longest

    report = {"labels": {"id": "o"}, "bundles": {"shop.tar.gz": {"active_revision": longest.active}}, "metrics": ""}
    report["metrics"] = "m" * (LARGEST_REPORT - len(json.dumps(report)))
    content = json.dumps(report).encode()
    assert len(content) == LARGEST_REPORT
    async with (
        local(published) as server,
        ReportRelay(url=server.address, judged=judged) as relay,
        served(
            admin_application(no_health, policy_nudged=lambda: None, scrape=no_metrics, reported=relay.pass_on)
        ) as admin,
        httpx.AsyncClient() as client,
    ):
        await client.post(f"{admin}/status", content=content)
        async with asyncio.timeout(60):
            while not (told := (await client.get(server.url("status"))).json()["proxies"]):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert [one["counts"] is not None for one in told] == [True]


@contextlib.asynccontextmanager
async def taking(port: int) -> AsyncIterator[list[bytes]]:
    """A server that takes every report, and which it has taken."""
    taken: list[bytes] = []

    async def take(request: Request) -> Response:
        taken.append(await request.body())
        return Response()

    async with served(Starlette(routes=[Route("/status", take, methods=["POST"])]), port=port):
        yield taken


async def test_a_report_that_is_too_long_is_a_nudge_only() -> None:
    nudges: list[None] = []
    reports: list[bytes] = []
    application = admin_application(
        no_health, policy_nudged=lambda: nudges.append(None), scrape=no_metrics, reported=reports.append
    )
    async with served(application) as admin, httpx.AsyncClient() as client:
        assert (await client.post(f"{admin}/status", content=b"x" * (LARGEST_REPORT + 1))).status_code == 200
        assert (await client.post(f"{admin}/status/partition", content=b"{}")).status_code == 200
    assert len(nudges) == 2
    assert reports == [b"{}"]
