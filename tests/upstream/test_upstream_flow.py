"""Back-pressure: who is slow holds the other side back, and nothing piles up in between."""

from __future__ import annotations

import asyncio
import tracemalloc

from support.upstream import OK, Seen, UpstreamConnection, forwarding, until

MIB = 1024 * 1024
PIECE = bytes(64 * 1024)
PILE = 16 * MIB
"""More than every buffer between two ends holds, the kernel's included, on a machine with default settings."""


async def test_a_slow_client_holds_the_upstream_back() -> None:
    sent = 0

    async def flood(connection: UpstreamConnection, seen: Seen) -> None:
        nonlocal sent
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (256 * MIB))
        while sent < 256 * MIB:
            await connection.send(PIECE)
            sent += len(PIECE)

    async with forwarding(flood) as (front, _):
        reader, writer = await front.open()
        writer.write(b"GET /orders HTTP/1.1\r\nHost: orders.test\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.15)
        assert sent < PILE
        received = 0
        while received < PILE:
            received += len(await reader.read(MIB))
        assert sent >= PILE  # and lets go again
        writer.transport.abort()


async def test_a_slow_upstream_holds_the_client_back() -> None:
    resume = asyncio.Event()

    async def slow(connection: UpstreamConnection, seen: Seen) -> None:
        await resume.wait()
        await connection.body(seen, keep=False)
        await connection.send(OK)

    async with forwarding(slow) as (front, _):
        reader, writer = await front.open()
        writer.write(b"POST /orders HTTP/1.1\r\nHost: orders.test\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
        sent = 0

        async def upload() -> None:
            nonlocal sent
            while sent < 64 * MIB:
                writer.write(PIECE)
                await writer.drain()
                sent += len(PIECE)

        uploading = asyncio.create_task(upload())
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.15)
        assert sent < PILE
        resume.set()
        await uploading
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        writer.close()


async def test_a_large_response_passes_in_constant_memory() -> None:
    async def flood(connection: UpstreamConnection, seen: Seen) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(256 * MIB // len(PIECE)):
            await connection.send(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
        await connection.send(b"0\r\n\r\n")

    async with forwarding(flood) as (front, _):
        reader, writer = await front.open()
        writer.write(b"GET /orders HTTP/1.1\r\nHost: orders.test\r\nConnection: close\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        tracemalloc.start(1)
        try:
            received = 0
            while piece := await reader.read(MIB):
                received += len(piece)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        writer.close()
        await until(lambda: front.exchanges[0].response_complete)
        assert front.exchanges[0].bytes_sent == 256 * MIB
    assert received > 256 * MIB
    assert peak < 8 * MIB


async def test_a_large_request_body_passes_in_constant_memory() -> None:
    async def count(connection: UpstreamConnection, seen: Seen) -> None:
        size = await connection.body(seen, keep=False)
        body = b"%d" % size
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async with forwarding(count) as (front, _):
        reader, writer = await front.open()
        writer.write(b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        tracemalloc.start(1)
        try:
            for _ in range(256 * MIB // len(PIECE)):
                writer.writelines((b"%x\r\n" % len(PIECE), PIECE, b"\r\n"))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            raw = await reader.read(-1)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        writer.close()
        assert front.exchanges[0].bytes_received == 256 * MIB
    assert raw.endswith(b"\r\n\r\n%d" % (256 * MIB))
    assert peak < 8 * MIB
