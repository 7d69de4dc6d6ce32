"""The soak: traffic, faults, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from ostiary import assets
from ostiary.demo.issuer import DemoIssuer
from ostiary.opa.install import ensure_opa
from ostiary.policy.bundle import build_bundle
from soak.oracle import Oracle
from soak.traffic import REGO, World, client, permissions
from support.faults import changed_proxy
from support.identity import KeyServer, answer, raw_server
from support.machine import descriptors
from support.proxy import RunningProxy, Trusted, children, memory
from support.trail import Place, verified
from support.upstream import RawUpstream, Seen, UpstreamConnection

CLIENTS = 12
CONFIG = """\
limits: {first_byte_timeout: 5s, idle_timeout: 5s, upstream_keep_alive: 2s, keep_alive_timeout: 5s, drain_grace: 1s}
"""
SETTLED = 2.0
"""Seconds after a fault is over for which its traces are still put down to it."""
RECOVERY = 60.0
"""Seconds within which the proxy has to be well again by itself."""
FLUSH = 2.0
"""Seconds for which a record that nobody waited for may be on its way to the disk: what a SIGKILL can cost."""
GROWTH = 32 * 1024 * 1024
"""Bytes that a process may grow by once it is warm: caches fill up, and the heap is not all given back."""
STALL = "the machine stands still"
"""Seen and not inflicted: this process had no turn for a second. Then others had none either, and deadlines pass."""
STALLED = 1.0
LEFT_BY_A_DEATH = frozenset({"resume", "torn", "open"})
"""What the audit may say of a worker that was killed."""
TWO_FRAMINGS = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n"
TRACES = {
    "OPA is killed": {503},
    "OPA stands still": {503},
    "a worker is killed": {None, 200},
    "the service closes": {502},
    "the service speaks no HTTP": {502},
    "the service says two framings": {502},
    "the service hangs": {504},
    "the service breaks off": {200},
    STALL: {503, 504, 200, None},
}
"""The statuses that a request may end with during a fault, None where its connection is cut off, and 200 where its
response is. Other faults, and the rest of the time: none."""


@dataclass
class Service:
    """Answers each request with its own mark, unless `fault` is set."""

    fault: str | None = None
    seen: list[tuple[str, str]] = field(default_factory=list)
    bodies: int = 0
    mistaken: list[str] = field(default_factory=list)

    async def __call__(self, connection: UpstreamConnection, seen: Seen) -> None:
        self.bodies += await connection.body(seen, keep=False)
        (mark,), (decision,) = seen.values("x-mark"), seen.values("ostiary-decision-id")
        self.seen.append((mark, decision))
        if len(seen.values("authorization")) != 1:
            self.mistaken.append(f"{mark} came with {len(seen.values('authorization'))} credentials")
        if self.fault is not None:
            await self._go_wrong(connection, mark.encode(), self.fault)
            return
        body = mark.encode() + b"." * (len(self.seen) % 7 * 500)
        if seen.line.endswith("/events HTTP/1.1"):
            await connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for piece in (body, b"one", b"two"):
                await connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
                await asyncio.sleep(0.01)
            await connection.send(b"0\r\n\r\n")
        else:
            head_only = seen.line.startswith("HEAD")
            await connection.send(
                b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), b"" if head_only else body)
            )

    async def _go_wrong(self, connection: UpstreamConnection, mark: bytes, fault: str) -> None:
        if fault == "the service hangs":
            await connection.closed()
            return
        await connection.send(
            {
                "the service closes": b"",
                "the service speaks no HTTP": b"\x16\x03\x01 " + mark,
                "the service says two framings": TWO_FRAMINGS,
                "the service breaks off": b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n" + mark,
            }[fault]
        )
        connection.writer.close()


@dataclass(frozen=True, kw_only=True)
class Fault:
    name: str
    begin: float
    end: float  # once the proxy was well again
    recovery: float  # seconds from the moment at which what went wrong was right again


class Soak:
    """One run. `report` is the account of it, `wrong` what must not be."""

    def __init__(self, *, seconds: float, seed: int) -> None:
        self._seconds = seconds
        self._seed = seed
        self._chance = random.Random(seed)
        self._sequence = 1
        self._faults: list[Fault] = []
        self._samples: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
        self.wrong: list[str] = []
        self.report = ""

    async def run(self) -> None:
        service = Service()
        with TemporaryDirectory() as place:
            signer = DemoIssuer(Path(place))
        keys = KeyServer(json.dumps(signer.jwks()).encode())
        async with RawUpstream(service).running() as upstream, raw_server(keys) as issuer:
            starting = changed_proxy(
                upstreams={"orders": upstream.port},
                permissions=permissions(second=False),
                rego={"policy.rego": REGO},
                changes={"key_file: jwks.json": f'jwks_url: "http://127.0.0.1:{issuer.port}/jwks"'},
                opa_extra="deadline: 5s",  # a busy machine is no fault of OPA's
                config_extra=CONFIG,
                workers=2,
                trusted=Trusted(signer=signer),
            )
            async with starting as proxy:
                world = World(port=proxy.port, tokens=_Tokens(proxy))
                world.oracles.append((time.monotonic(), float("inf"), _oracle(second=False)))
                idle = {pid: descriptors(pid) for pid in (proxy.pid, *proxy.worker_pids)}
                async with self._traffic(world), self._sampling(proxy):
                    await self._go_wrong(proxy, service, keys, world)
                await self._settled(proxy, idle)
                self._judge(world, service)
                self._judge_audit(proxy, world, service)
                await self._judge_trail(proxy)
                self._judge_growth()
                self._account(world, service)

    # Traffic and faults.

    @asynccontextmanager
    async def _traffic(self, world: World) -> AsyncIterator[None]:
        clients = [
            asyncio.create_task(client(world, random.Random(f"{self._seed} {number}"))) for number in range(CLIENTS)
        ]
        try:
            yield
        finally:
            world.stopping.set()
            await asyncio.gather(*clients)

    async def _go_wrong(self, proxy: RunningProxy, service: Service, keys: KeyServer, world: World) -> None:
        """One fault after the other, each kind before any comes again, until the time is over."""
        until = time.monotonic() + self._seconds
        faults: list[str] = []
        while time.monotonic() < until:
            if not faults:
                faults = ["a bundle is swapped", "the issuer is away", "the workers are restarted", *TRACES]
                faults.remove(STALL)
                self._chance.shuffle(faults)
            await asyncio.sleep(self._chance.uniform(0.2, 1.0))
            name, begin = faults.pop(), time.monotonic()
            mended = await self._inflict(name, proxy, service, keys, world)
            await self._well(proxy, name)
            end = time.monotonic()
            self._faults.append(Fault(name=name, begin=begin, end=end, recovery=end - mended))

    async def _inflict(self, name: str, proxy: RunningProxy, service: Service, keys: KeyServer, world: World) -> float:
        """Let it happen; the instant at which what is outside the proxy was right again."""
        if name == "OPA is killed":
            os.kill(proxy.opa_pid, signal.SIGKILL)
        elif name == "OPA stands still":
            pid = proxy.opa_pid
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(self._chance.uniform(0.5, 3.0))
            os.kill(pid, signal.SIGCONT)
        elif name == "a worker is killed":
            os.kill(self._chance.choice(proxy.worker_pids), signal.SIGKILL)
        elif name == "the workers are restarted":
            done = proxy.log_text().count("all workers were restarted")
            os.kill(proxy.pid, signal.SIGUSR2)
            await _until(lambda: proxy.log_text().count("all workers were restarted") > done)
        elif name == "a bundle is swapped":
            await self._swap(proxy, world)
        elif name == "the issuer is away":
            keys.raw = self._chance.choice((b"", answer(b"{}"), answer(b'{"keys": []}'), answer(b"", status="500 No")))
            await asyncio.sleep(self._chance.uniform(0.5, 1.5))
            keys.raw = None
        else:
            service.fault = name
            await asyncio.sleep(self._chance.uniform(0.2, 0.8))
            service.fault = None
        return time.monotonic()

    async def _swap(self, proxy: RunningProxy, world: World) -> None:
        """Publish the other map. Until it is known to be in force, either may decide."""
        self._sequence += 1
        second = self._sequence % 2 == 0
        (proxy.place / "policy" / "permissions.yaml").write_text(permissions(second=second))
        before = world.oracles[-1]
        world.oracles.append((time.monotonic(), float("inf"), _oracle(second=second)))
        built = await asyncio.to_thread(
            build_bundle, proxy.place / "policy", proxy.bundle, opa=ensure_opa(), sequence=self._sequence,
            rego_root=assets.rego(),
        )  # fmt: skip
        await _until(lambda: proxy.health()[1]["revision"] == built.revision)
        world.oracles[-2] = (before[0], time.monotonic(), before[2])

    async def _well(self, proxy: RunningProxy, name: str) -> None:
        try:
            await _until(lambda: _health(proxy)[0] == 200)
        except TimeoutError:
            self.wrong.append(f"{name}: not well again within {RECOVERY:g} s: {_health(proxy)}")

    # Memory and descriptors.

    @asynccontextmanager
    async def _sampling(self, proxy: RunningProxy) -> AsyncIterator[None]:
        async def sample() -> None:
            while True:
                for pid in [proxy.pid, *children(proxy.pid)]:
                    kind = "supervisor" if pid == proxy.pid else "worker" if pid in proxy.worker_pids else "other"
                    with contextlib.suppress(OSError, ValueError):  # it has ended
                        self._samples[kind, pid].append((memory(pid, "VmRSS"), descriptors(pid)))
                await asyncio.sleep(0.5)

        async def notice() -> None:
            while True:
                begin = time.monotonic()
                await asyncio.sleep(0.1)
                end = time.monotonic()
                if end - begin > STALLED:
                    self._faults.append(Fault(name=STALL, begin=begin, end=end, recovery=end - begin))

        tasks = [asyncio.create_task(sample()), asyncio.create_task(notice())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _settled(self, proxy: RunningProxy, idle: dict[int, int]) -> None:
        """Without clients, each process has what it had before there were any."""
        most = max(count for pid, count in idle.items() if pid != proxy.pid) + 2  # OPA's connections vary by one or two

        def settled() -> bool:
            return descriptors(proxy.pid) <= idle[proxy.pid] + 2 and all(
                descriptors(pid) <= most for pid in proxy.worker_pids
            )

        try:
            await _until(settled)
        except TimeoutError:
            now = {pid: descriptors(pid) for pid in (proxy.pid, *proxy.worker_pids)}
            self.wrong.append(f"descriptors were {idle} and are {now}")
        if len(proxy.worker_pids) != 2:
            self.wrong.append(f"{len(proxy.worker_pids)} workers")

    def _judge_growth(self) -> None:
        """From the second third of a process's time to its last: what still grows then, leaks."""
        for (kind, pid), samples in self._samples.items():
            if kind == "other" or len(samples) < 30:
                continue
            third = len(samples) // 3
            warm, late = samples[third : 2 * third], samples[2 * third :]
            grown = min(size for size, _ in late) - max(size for size, _ in warm)
            if grown > GROWTH:
                self.wrong.append(f"{kind} {pid} grew by {grown // 1024} KiB")
            if min(count for _, count in late) > max(count for _, count in warm):
                self.wrong.append(f"{kind} {pid} has ever more descriptors open")

    # What every request came to.

    def _judge(self, world: World, service: Service) -> None:
        self.wrong += [f"an answer of another's request: {one}" for one in world.mixed_up[:20]]
        self.wrong += service.mistaken[:20]
        for mark, _ in service.seen:
            if True not in world.allowed.get(mark, frozenset()):
                self.wrong.append(f"{mark} reached the service and is not allowed")
        for one in world.outcomes:
            if one.required is not None:
                fits = one.status == one.required
            else:
                fits = one.complete and (
                    (one.status == 200 and True in one.may) or (one.status == 403 and False in one.may)
                )
            if fits:
                continue
            if one.status in (200, 403) and one.complete:
                self.wrong.append(f"wrong decision: {one}")
            elif one.status not in self._tolerated(one.sent, one.got):
                begun = [fault for fault in self._faults if fault.begin <= one.got]
                last = max(begun, key=lambda fault: fault.begin, default=None)
                self.wrong.append(f"no fault explains it: {one}, after {last}")

    def _tolerated(self, sent: float, got: float) -> set[int | None]:
        found: set[int | None] = set()
        for fault in self._faults:
            if fault.begin <= got and sent <= fault.end + SETTLED:
                found |= TRACES.get(fault.name, set())
        return found

    # The audit.

    def _judge_audit(self, proxy: RunningProxy, world: World, service: Service) -> None:
        """Two lines for what was let through, one for a refusal; nothing is recorded twice and nothing is missing."""
        kinds: dict[str, Counter[str]] = defaultdict(Counter)
        for path in proxy.audit.glob("*.ndjson"):
            with path.open("rb") as lines:
                for line in lines:
                    try:
                        entry: dict[str, Any] = json.loads(line)
                    except ValueError:
                        if line.endswith(b"\n"):  # else a death cut it short
                            self.wrong.append(f"{path.name} has a line that is none")
                        continue
                    if "decision_id" in entry:
                        kinds[entry["decision_id"]][entry["kind"]] += 1
        deaths = [fault.begin for fault in self._faults if fault.name == "a worker is killed"]
        for mark, decision in service.seen:
            if kinds[decision]["decision"] != 1:
                self.wrong.append(f"{mark} was forwarded with {kinds[decision]['decision']} decisions on record")
        forwarded = {decision for _, decision in service.seen}
        for one in world.outcomes:
            if one.decision_id is None:
                if one.status is not None:
                    self.wrong.append(f"an answer without a decision's id: {one}")
                continue
            found = dict(kinds[one.decision_id])
            if one.decision_id in forwarded or one.status in (502, 504):
                expected = {"decision": 1, "completion": 1}
            else:
                expected = {"refusal": 1}
            if found == expected:
                continue
            lost = {kind: count for kind, count in expected.items() if kind != "decision"}
            if (
                any(one.got - FLUSH <= death <= one.got + FLUSH for death in deaths)
                and all(expected.get(kind) == count for kind, count in found.items())
                and set(expected) - set(found) <= set(lost)
            ):
                continue
            self.wrong.append(f"{found} on record of {one}")

    async def _judge_trail(self, proxy: RunningProxy) -> None:
        """After a clean end the chains are whole, but for what a death is known to leave."""
        if (status := await asyncio.to_thread(proxy.stop)) != 0:
            self.wrong.append(f"the proxy ended with {status}")
        trail = await asyncio.to_thread(verified, Place(proxy.place))
        self.wrong += [f"{one.kind} {one.file}:{one.line} {one.what}" for one in trail.findings]
        notes = {one.kind for one in trail.remarks if not one.finding}
        self.wrong += [f"the trail has a note of {kind}" for kind in sorted(notes - LEFT_BY_A_DEATH)]

    def _account(self, world: World, service: Service) -> None:
        outcomes = Counter(str(one.status) for one in world.outcomes)
        lines = [f"seed {self._seed}, {self._seconds:g} s", "", "requests by outcome (None: cut off)"]
        lines += [f"  {status:5} {count}" for status, count in sorted(outcomes.items())]
        lines += [f"  {len(service.seen)} reached the service, with {service.bodies // 1024} KiB of bodies", "traffic"]
        lines += [f"  {kind}: {count}" for kind, count in sorted(world.kinds.items())]
        lines += ["faults: how often, and the longest recovery"]
        for name in sorted({fault.name for fault in self._faults}):
            times = [fault.recovery for fault in self._faults if fault.name == name]
            lines.append(f"  {name}: {len(times)}, {max(times):.2f} s")
        lines += ["memory, first and last, and descriptors at most"]
        for (kind, pid), samples in sorted(self._samples.items()):
            if kind != "other" and len(samples) > 1:
                first, last = samples[0][0] // 1024**2, samples[-1][0] // 1024**2
                lines.append(f"  {kind} {pid}: {first} MiB, {last} MiB, {max(count for _, count in samples)}")
        lines += [f"wrong: {len(self.wrong)}", *(f"  {one}" for one in self.wrong[:50])]
        self.report = "\n".join(lines)


class _Tokens:
    """A token for each person, made anew before it is old."""

    def __init__(self, proxy: RunningProxy) -> None:
        self._proxy = proxy
        self._made: dict[str, tuple[float, str]] = {}

    def __call__(self, subject: str, claims: dict[str, Any]) -> str:
        person = f"{subject} {claims}"
        made, token = self._made.get(person, (-1000.0, ""))
        if time.monotonic() - made > 600:
            token = self._proxy.token(subject, **claims)
            self._made[person] = (time.monotonic(), token)
        return token


def _oracle(*, second: bool) -> Oracle:
    return Oracle(permissions(second=second), service="orders")


def _health(proxy: RunningProxy) -> tuple[int, dict[str, Any]]:
    try:
        return proxy.health()
    except httpx.HTTPError as error:
        return 0, {"error": repr(error)}


async def _until(holds: Callable[[], bool]) -> None:
    """Raises `TimeoutError` if it does not hold within `RECOVERY` seconds."""
    async with asyncio.timeout(RECOVERY):
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110 - what is waited for is in other processes
            await asyncio.sleep(0.05)
