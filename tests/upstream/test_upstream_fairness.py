"""However slowly one identity sends and reads, half of a service's connections are left to the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ostiary.errors import Overloaded, TooManyRequests
from ostiary.upstream.watch import TICK
from support.upstream import OK, Front, Seen, UpstreamConnection, forwarding, parse, until

ANN, BOB = "Subject: ann\r\n", "Subject: bob\r\n"
PIECE = bytes(64 * 1024)


async def upload_or_download(connection: UpstreamConnection, seen: Seen) -> None:
    """A body is awaited; who asks for /flood is given more than anybody takes."""
    if "/flood" in seen.line:
        await connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            await connection.send(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
    await connection.body(seen)
    await connection.send(OK)


SLOW_SENDER = b"POST / HTTP/1.1\r\nHost: orders.test\r\nContent-Length: 3\r\n%b\r\na"
SLOW_READER = b"GET /flood HTTP/1.1\r\nHost: orders.test\r\n%b\r\n"


@contextlib.asynccontextmanager
async def held(front: Front, request: bytes, subject: str, count: int) -> AsyncIterator[list[asyncio.StreamWriter]]:
    """So many requests of one identity that do not end by themselves."""

    def under_way() -> int:
        facts = front.forwarder.facts()["orders"]
        return facts.open - facts.idle

    before = under_way()
    writers = [(await front.open())[1] for _ in range(count)]
    for writer in writers:
        writer.write(request % subject.encode())
    await until(lambda: under_way() == before + count)
    try:
        yield writers
    finally:
        for writer in writers:
            writer.transport.abort()


@pytest.mark.parametrize("request_", [SLOW_SENDER, SLOW_READER], ids=["sends", "reads"])
async def test_who_is_slow_takes_half_of_the_connections_and_no_more(request_: bytes) -> None:
    async with (
        forwarding(upload_or_download, max_connections=4, wait_timeout=0.05) as (front, upstream),
        held(front, request_, ANN, 2),
    ):
        answer = await front.call(headers=ANN)
        assert (answer.status, answer.values("retry-after")) == (429, ["1"])
        assert (await front.call("POST", body=b"abc", headers=ANN)).status == 429
        assert [type(refusal) for refusal in front.refusals] == [TooManyRequests] * 2
        assert len(upstream.requests) == 2
        async with held(front, request_, BOB, 2):  # as many are left to him
            assert (await front.call(headers=BOB)).status == 429


async def test_a_place_comes_back_with_the_end_of_an_exchange() -> None:
    """Whether it is complete or the client has gone."""
    async with forwarding(upload_or_download, max_connections=2, wait_timeout=0.05) as (front, _):
        for _ in range(3):
            async with held(front, SLOW_SENDER, ANN, 1) as (writer,):
                assert (await front.call(headers=ANN)).status == 429
                writer.write(b"bc")
                await front.settled(idle=1)
                assert (await front.call(headers=ANN)).status == 200
                await front.settled(idle=1)
            async with held(front, SLOW_READER, ANN, 1):
                assert (await front.call(headers=ANN)).status == 429
            await front.settled()
            assert (await front.call(headers=ANN)).status == 200
            await front.settled(idle=1)


async def test_who_waits_for_a_connection_has_it_counted() -> None:
    """Otherwise one identity would fill the queue that the others stand in."""
    free = asyncio.Event()

    async def hold(connection: UpstreamConnection, seen: Seen) -> None:
        await free.wait()
        await connection.send(OK)

    async with forwarding(hold, max_connections=4, max_waiting=2, wait_timeout=5) as (front, _):
        of_all: list[asyncio.Task[Any]] = [
            asyncio.create_task(front.call(headers=f"Subject: {name}\r\n")) for name in ("a", "b", "c", "d")
        ]
        await until(lambda: front.forwarder.facts()["orders"].open == 4)
        waiting = [asyncio.create_task(front.call(headers=ANN)) for _ in range(2)]
        await until(lambda: front.forwarder.facts()["orders"].waiting == 2)
        waiting.append(asyncio.create_task(front.call(headers=ANN)))
        await asyncio.sleep(0.05)
        assert (await front.call(headers=ANN)).status == 429  # one of hers may wait, as half of all that may
        free.set()
        assert [(await call).status for call in (*of_all, *waiting)] == [200] * 7
        assert (await front.call(headers=ANN)).status == 200


async def test_what_is_refused_for_all_gives_its_place_back() -> None:
    async with (
        forwarding(upload_or_download, max_connections=1, max_waiting=0) as (front, _),
        held(front, SLOW_SENDER, ANN, 1),
    ):
        for _ in range(3):
            assert (await front.call(headers=BOB)).status == 503
        assert [type(refusal) for refusal in front.refusals] == [Overloaded] * 3


async def test_what_is_over_waits_for_its_turn() -> None:
    """A busy identity is slowed down by its share, and refused nothing while its requests end."""
    async with forwarding(upload_or_download, max_connections=4, wait_timeout=10) as (front, upstream):
        calls = [asyncio.create_task(front.call(headers=ANN)) for _ in range(20)]
        assert [(await call).status for call in calls] == [200] * 20
        assert front.forwarder.facts()["orders"].open <= 2
    assert len(upstream.requests) == 20


async def test_who_goes_while_it_waits_leaves_its_turn_to_the_next() -> None:
    async with forwarding(upload_or_download, max_connections=2, wait_timeout=5) as (front, _):
        async with held(front, SLOW_SENDER, ANN, 1) as (writer,):
            _, gone = await front.open()
            gone.write(b"GET / HTTP/1.1\r\nHost: orders.test\r\n%b\r\n" % ANN.encode())
            await asyncio.sleep(0.05)
            waiting = asyncio.create_task(front.call(headers=ANN))
            await asyncio.sleep(0.05)
            gone.transport.abort()
            await asyncio.sleep(0.05)
            writer.write(b"bc")
            assert (await waiting).status == 200
        assert (await front.call(headers=ANN)).status == 200


@pytest.mark.parametrize("framing", ["Content-Length: 9", "Transfer-Encoding: chunked"])
async def test_a_body_that_came_while_its_request_waited_arrives_whole(framing: str) -> None:
    """For as long as the watch needs to look whether the client is still there."""
    body = b"123456789" if "Length" in framing else b"4\r\n1234\r\n5\r\n56789\r\n0\r\n\r\n"
    lines = f"POST / HTTP/1.1\r\nHost: orders.test\r\nConnection: close\r\n{ANN}{framing}\r\n\r\n"
    async with (
        forwarding(upload_or_download, max_connections=2, wait_timeout=5) as (front, upstream),
        held(front, SLOW_SENDER, ANN, 1) as (writer,),
    ):
        waiting = asyncio.create_task(front.raw(lines.encode() + body))
        await asyncio.sleep(4 * TICK)
        writer.write(b"bc")
        async with asyncio.timeout(5):
            assert parse(await waiting).status == 200
    assert [seen.body for seen in upstream.requests] == [b"abc", b"123456789"]
