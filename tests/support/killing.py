"""Killing the workers of a proxy under load, at instants that a seed chooses, and what is then true of its audit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from dataclasses import dataclass
from pathlib import Path

from support.faults import changed_proxy, eventually
from support.forwarding import connected, replies, response
from support.proxy import RunningProxy
from support.trail import Place, verified
from support.upstream import RawUpstream

CLIENTS = 8
"""Connections that ask all the time."""
REQUESTS = 20
"""What is asked on one connection. The next one may come to another worker, so none is killed that nobody asks."""
PAUSE = 0.01
"""Seconds that each takes between two requests at most: a worker that starts has to have something of the machine."""


@dataclass(frozen=True)
class Outcome:
    """What came of some kills. `unrecorded` are requests that the service got and that have no decision on disk."""

    kills: int
    forwarded: int
    unrecorded: set[str]
    findings: list[str]
    notes: list[str]
    resumed: int


async def kill_workers(*, kills: int, seed: int) -> Outcome:
    """A proxy with two workers under load, one of which is ended by SIGKILL, again and again; then a clean end."""
    chance = random.Random(seed)
    async with (
        RawUpstream(replies(response())).running() as upstream,
        # Small files, so that a death meets one that is being begun, too.
        changed_proxy(
            upstreams={"orders": upstream.port},
            workers=2,
            changes={"audit: {path: audit/}": "audit: {path: audit/, max_bytes: 64KiB}"},
        ) as proxy,
    ):
        asking = [asyncio.create_task(_ask(proxy, random.Random(number))) for number in range(CLIENTS)]
        try:
            for _ in range(kills):
                victims = proxy.worker_pids
                before = len(upstream.requests)
                await eventually(lambda before=before: len(upstream.requests) > before + CLIENTS * REQUESTS)
                await asyncio.sleep(chance.uniform(0, 0.3))
                os.kill(chance.choice(victims), signal.SIGKILL)
                await eventually(lambda: proxy.health()[1]["workers_ready"] == 2)
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        assert await asyncio.to_thread(proxy.stop) == 0
        return _judged(proxy, upstream, kills)


def _judged(proxy: RunningProxy, upstream: RawUpstream, kills: int) -> Outcome:
    forwarded = {seen.values("ostiary-decision-id")[0] for seen in upstream.requests}
    recorded = {line["decision_id"] for line in proxy.audit_lines() if line["kind"] == "decision"}
    report = verified(Place(Path(proxy.place)))
    return Outcome(
        kills=kills,
        forwarded=len(forwarded),
        unrecorded=forwarded - recorded,
        findings=[f"{one.kind} {one.file}:{one.line} {one.what}" for one in report.findings],
        notes=sorted({one.kind for one in report.remarks if not one.finding}),
        resumed=sum(one.kind == "resume" for one in report.remarks),
    )


async def _ask(proxy: RunningProxy, chance: random.Random) -> None:
    """Ask until cancelled. What is cut off is asked again: that is what a client does."""
    headers = f"Host: orders.localhost\r\nAuthorization: Bearer {proxy.token()}\r\n"
    request = f"GET /orders/42 HTTP/1.1\r\n{headers}\r\n".encode()
    while True:
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            async with connected(proxy.port) as client:
                for _ in range(REQUESTS):
                    await client.send(request)
                    await client.response()
                    await asyncio.sleep(chance.uniform(0, PAUSE))
        await asyncio.sleep(PAUSE)
