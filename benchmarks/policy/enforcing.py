"""Time to policy: from the publication of a bundle until every worker decides by it, under load, with a hot cache.

The bundles by turns lack a permission and have it. Connections ask for what it is about, again and again; each answer
is a yes or a no, so that it tells which bundle it was decided by. A publication is enforced when the first request that
was decided by it was sent on the connection that saw it last; the time counts from before it is sent to the server. So
it is said too late by up to the time between two requests of a connection. Others ask for what every bundle allows.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.messages import get
from benchmarks.policy.distributing import (
    Server,
    archives,
    publish,
    quantile,
    revision_of,
    serving,
    until,
    waiting_opa,
)
from benchmarks.processes import ALL, children, free_port, started, until_listening
from benchmarks.rego.questions import CALLERS, permission_count, permission_map
from benchmarks.rego.report import Part
from benchmarks.targets import Target
from benchmarks.traffic import traffic
from ostiary.demo.issuer import AUDIENCE, ISSUER, DemoIssuer

SMALL: Final = 10
"""Services of the map of 10,000 permissions; the other has a hundred."""
PUBLICATIONS: Final = 200
FEW: Final = 12
"""Publications of 100,000 permissions."""
WORKERS: Final = 2
CONNECTIONS: Final = 8
STEADY: Final = 2
"""Connections that ask for what every bundle allows."""
_PACE: Final = 0.005
"""Seconds between an answer and the next request of a connection."""
_PATIENCE: Final = 30.0
_WARMING: Final = 3
"""Publications before those that count."""

HOST: Final = "service-0.localhost"
_LACKING: Final = ("endpoint-1", "endpoint-2")
"""What the last caller lacks in one bundle, and in the next."""


@dataclass(slots=True)
class _Watch:
    """What a connection saw last, and since when: when the request was sent of which that was the answer."""

    allowed: bool | None = None
    since: float = 0.0


@dataclass(kw_only=True)
class _Load:
    """Asks on connections of its own until it is stopped. `changed` is set when a connection sees something else."""

    port: int
    token: str
    steady: str
    watches: list[_Watch] = field(default_factory=lambda: [_Watch() for _ in range(CONNECTIONS)])
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    answers: int = 0
    failed: list[str] = field(default_factory=list)
    flips: int = 0

    async def run(self, workers: Sequence[int]) -> None:
        """Each of the workers, which are processes, gets its share of the connections."""
        async with asyncio.TaskGroup() as group:
            for number, watch in enumerate([*self.watches, *[None] * STEADY]):
                worker = workers[number % len(workers)]
                reader, writer = await self._connect([one for one in workers if one != worker])
                group.create_task(self._ask(watch, reader, writer))

    async def _connect(self, others: Sequence[int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that none of the others has: they are stopped for the moment in which it is accepted."""
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(get("/items0/42", self.steady, host=HOST))
            await _status(reader)
        finally:
            for pid in others:
                os.kill(pid, signal.SIGCONT)
        return reader, writer

    async def _ask(self, watch: _Watch | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = get("/items1/42", self.token, host=HOST) if watch else get("/items0/42", self.steady, host=HOST)
        try:
            while True:
                sent = time.monotonic()
                writer.write(asked)
                status = await _status(reader)
                self.answers += 1
                if watch is None:
                    if status != 200:
                        self.failed.append(f"{status} for what every bundle allows")
                elif status not in (200, 403):
                    self.failed.append(f"{status}")
                elif watch.allowed is not (status == 200):
                    watch.allowed, watch.since = status == 200, sent
                    self.flips += 1
                    self.changed.set()
                await asyncio.sleep(_PACE)
        finally:
            writer.close()

    async def until_all(self, allowed: bool) -> float:
        """When the last connection began to see this, by the monotonic clock."""
        async with asyncio.timeout(_PATIENCE):
            while not all(one.allowed is allowed for one in self.watches):
                self.changed.clear()
                await self.changed.wait()
        return max(one.since for one in self.watches)


async def _status(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    await reader.readexactly(length)
    return int(head[9:12])


def measure(place: Path) -> Part:
    """At 10,000 permissions and at 100,000."""
    small = _measured(place / "small", services=SMALL, publications=PUBLICATIONS)
    large = _measured(place / "large", services=100, publications=FEW)
    names = [f"time to policy, {row['permissions']:,} permissions" for row in (small, large)]

    def at_most(name: str, value: float, bound: float) -> Target:
        return Target(name=name, value=value, bound=bound, side="at most", unit="ms")

    return Part(
        name="enforcing",
        members={"enforcing": [small, large]},
        targets=[
            at_most(f"{names[0]}: p50", small["p50_ms"], 50),
            at_most(f"{names[0]}: p99", small["p99_ms"], 150),
            at_most(f"{names[1]}: p99", large["p99_ms"], 1000),
            at_most("requests that failed, or were decided wrongly, meanwhile", small["wrong"] + large["wrong"], 0),
        ],
    )


def _measured(place: Path, *, services: int, publications: int) -> dict[str, Any]:
    place.mkdir()
    maps = [permission_map(services, denied=denied) for denied in _LACKING]
    bundles = archives(place / "bundles", maps, count=publications + _WARMING)
    with traffic() as ends, serving(place / "server") as server, server.client() as client:
        publish(client, bundles[0])
        with _proxy(place, server, upstream=ends.port, services=services) as proxy:
            row = asyncio.run(_publications(bundles, client, proxy))
            reports = httpx.get(f"http://127.0.0.1:{proxy.admin}/health").json()["reports"]
    hits = [report["decisions"]["hits"] for report in reports]
    if not all(hits):
        raise SystemExit(f"a worker got no requests, or kept no decisions: {hits}")
    row |= {"permissions": permission_count(services), "bundle_bytes": len(bundles[0]), "cache_hits": sum(hits)}
    print(
        f"{row['permissions']:8,} permissions: p50 {row['p50_ms']:.0f} ms, p99 {row['p99_ms']:.0f}, "
        f"most {row['most_ms']:.0f}; acknowledged p50 {row['acknowledged_p50_ms']:.0f}; {row['answers']:,} answers, "
        f"{row['wrong']} wrong",
        flush=True,
    )
    return row


async def _publications(bundles: list[bytes], client: httpx.Client, proxy: _Proxy) -> dict[str, Any]:
    issuer = proxy.issuer
    load = _Load(port=proxy.port, token=issuer.token(f"caller-{CALLERS - 1}"), steady=issuer.token("caller-0"))
    times: list[float] = []
    acknowledged: list[float] = []
    async with _running(load, proxy.workers):
        await load.until_all(_allows(1))
        for sequence, bundle in enumerate(bundles[1:], start=2):
            await asyncio.sleep(random.uniform(0.1, 0.2))  # noqa: S311 - so that no beat is kept
            before = load.flips
            began = time.monotonic()
            await asyncio.to_thread(publish, client, bundle)
            known = time.monotonic() - began
            enforced = await load.until_all(_allows(sequence)) - began
            if load.flips - before != CONNECTIONS:
                load.failed.append("a decision went back to the bundle before")
            if sequence > _WARMING:
                times.append(enforced * 1000)
                acknowledged.append(known * 1000)
    for line in load.failed[:10]:
        print(f"         wrong: {line}", file=sys.stderr)
    return {
        "publications": len(times),
        "p50_ms": quantile(times, 0.5),
        "p99_ms": quantile(times, 0.99),
        "most_ms": max(times),
        "acknowledged_p50_ms": quantile(acknowledged, 0.5),
        "answers": load.answers,
        "wrong": len(load.failed),
    }


def _allows(sequence: int) -> bool:
    """Whether the bundle with this sequence lets the last caller have `endpoint-1`."""
    return _LACKING[sequence % len(_LACKING)] != "endpoint-1"


@contextlib.asynccontextmanager
async def _running(load: _Load, workers: Sequence[int]) -> AsyncIterator[None]:
    asking = asyncio.create_task(load.run(workers))
    try:
        yield
    finally:
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking


@dataclass(frozen=True, kw_only=True)
class _Proxy:
    """Its port, that of its administration, its issuer, and the processes of its workers."""

    port: int
    admin: int
    issuer: DemoIssuer
    workers: Sequence[int]


@contextlib.contextmanager
def _proxy(place: Path, server: Server, *, upstream: int, services: int) -> Iterator[_Proxy]:
    """`ostiary run` with two workers and an OPA that waits."""
    issuer = DemoIssuer(place)
    (place / "jwks.json").write_text(json.dumps(issuer.jwks()), encoding="utf-8")
    port, admin = free_port(), free_port()
    with waiting_opa(place / "opa", server, status=admin) as opa:
        until(lambda: revision_of(opa) is not None, "the first activation")
        names = [f"service-{number}" for number in range(services)]
        document = {
            "listen": {"data": f"127.0.0.1:{port}", "admin": f"127.0.0.1:{admin}"},
            "workers": WORKERS,
            "issuers": [{"issuer": ISSUER, "audience": AUDIENCE, "key_file": "jwks.json", "algorithms": ["ES256"]}],
            "services": {
                name: {"hosts": [f"{name}.localhost"], "upstream": f"http://127.0.0.1:{upstream}"} for name in names
            },
            "opa": {"url": f"unix://{opa}", "deadline": "5s"},
            "audit": {"path": "audit", "deadline": "5s", "keep": 4},
            "limits": {"decisions_per_second": 1_000_000},
        }
        config = place / "ostiary.yaml"
        config.write_text(json.dumps(document), encoding="utf-8")  # JSON is YAML
        log = place / "proxy.log"
        with started([sys.executable, "-m", "ostiary", "run", "-c", config], ALL, log=log) as process:
            until_listening(port, process, log)
            workers = [pid for pid in children(process.pid) if b"spawn_main" in _command_line(pid)]
            yield _Proxy(port=port, admin=admin, issuer=issuer, workers=workers)


def _command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
