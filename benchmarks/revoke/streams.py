"""Streams that stand on a grant: from the acknowledgement of its revocation until their clients see the end."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.messages import get
from benchmarks.rego.report import Part
from benchmarks.revoke.connection import PATIENCE
from benchmarks.revoke.load import Load, load_of
from benchmarks.revoke.people import People, people
from benchmarks.revoke.proxies import SQLITE, Proxy, proxies
from benchmarks.revoke.trials import at_most, meanwhile, milliseconds, pause, show_machine, show_wrong, told

STREAMS: Final = 4
"""Open at once, on connections of their own, so that either worker may have them."""
CONNECTIONS: Final = 8
BOUND: Final = 100.0
_WARMING: Final = 5


class Stream(asyncio.Protocol):
    """`begun` once the first event is there. `ended` is when no more could come, by `time.monotonic`."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.begun: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[float] = loop.create_future()
        self._data = b""

    def data_received(self, data: bytes) -> None:
        if self.begun.done():
            return
        self._data += data
        if not self._data.startswith(b"HTTP/1.1 200"[: len(self._data)]):
            self.begun.set_exception(SystemExit(f"no stream: {self._data!r}"))
        elif b"event" in self._data:
            self.begun.set_result(None)

    def eof_received(self) -> None:
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(time.monotonic())


def measure(place: Path, trials: int) -> Part:
    with proxies(place, [SQLITE]) as (proxy,):
        return asyncio.run(measured(proxy, trials))


async def measured(proxy: Proxy, trials: int) -> Part:
    """Under load, which makes workers look at the board with each request; and without, for a tenth of the trials."""
    load = load_of(proxy, asked="/orders/42")
    async with people(proxy) as those:
        async with load.on(proxy, connections=CONNECTIONS):
            await _cuts(proxy, those, trials=_WARMING)
            with meanwhile() as machine:
                busy = await _cuts(proxy, those, trials=trials)
        idle = await _cuts(proxy, those, trials=max(1, trials // 10))
    return _part(busy, idle, load, machine)


def _part(busy: list[float], idle: list[float], load: Load, machine: dict[str, Any]) -> Part:
    row: dict[str, Any] = {
        "trials": len(busy),
        "streams": STREAMS,
        "answers": load.answers,
        "under_load": milliseconds(busy),
        "without_load": milliseconds(idle),
        "wrong": len(load.wrong),
        "meanwhile": machine,
    }
    print(f"streams: {row['trials']:,} trials with {STREAMS} streams each, {row['answers']:,} answers")
    print(f"  {told('revocation acknowledged → the last is cut:', row['under_load'])}")
    print(f"  {told('the same without load:', row['without_load'])}")
    show_machine(machine)
    show_wrong(load)
    return Part(
        name="streams",
        members={"streams": row},
        targets=[
            at_most("revocation acknowledged → open streams cut: p99", row["under_load"]["p99_ms"], BOUND),
            at_most("the same without load: p99", row["without_load"]["p99_ms"], BOUND),
        ],
    )


async def _cuts(proxy: Proxy, those: People, *, trials: int) -> list[float]:
    return [await _cut(proxy, those) for _ in range(trials)]


async def _cut(proxy: Proxy, those: People) -> float:
    """Seconds until the last of the streams has ended; 0 if all had before the acknowledgement came."""
    given = await those.give("news", "events")
    streams = [await opened(proxy) for _ in range(STREAMS)]
    await pause(0.0, 0.04)
    if any(stream.ended.done() for stream in streams):
        raise SystemExit("a stream has ended by itself")
    revocation = await those.revoke(given.id)
    async with asyncio.timeout(PATIENCE):
        ended = [await stream.ended for stream in streams]
    return max(0.0, max(ended) - revocation.received)


async def opened(proxy: Proxy) -> Stream:
    """A stream whose first event is there."""
    transport, stream = await asyncio.get_running_loop().create_connection(Stream, "127.0.0.1", proxy.port)
    transport.write(get("/events", proxy.issuer.token("web"), host="news.localhost"))
    async with asyncio.timeout(PATIENCE):
        await stream.begun
    return stream
