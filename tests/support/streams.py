"""Streams that go on until somebody ends them: a service that sends them, and what their clients see."""

from __future__ import annotations

import asyncio
import contextlib
import time

from support.forwarding import PATIENCE, Client, Request
from support.upstream import UpstreamConnection

STREAM = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def endless(connection: UpstreamConnection, seen: Request) -> None:
    await connection.body(seen)
    await connection.send(STREAM)
    with contextlib.suppress(OSError):
        while True:
            await connection.send(b"5\r\nevent\r\n")
            await asyncio.sleep(0.005)


async def flows(client: Client) -> bool:
    """Whether more comes, when what has come was read."""
    await asyncio.sleep(0.1)
    await client.reader.read(1 << 16)
    async with asyncio.timeout(PATIENCE):
        return bool(await client.reader.read(1 << 16))


async def cut(client: Client) -> float:
    """Seconds until nothing more comes."""
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE):
        while await client.reader.read(1 << 16):
            pass
    return time.monotonic() - began
