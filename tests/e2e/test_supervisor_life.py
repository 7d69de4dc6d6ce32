"""Workers that die, a supervisor that dies, and every way to end: nothing is left over, and no answer is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from ostiary.supervisor import cores_of
from support.faults import all_gone, descendants, ended, eventually, status_of, stopped, zombies
from support.forwarding import connected, replies, response
from support.proxy import RunningProxy, alive, running_proxy
from support.upstream import RawUpstream, Seen, UpstreamConnection


class Slow:
    """A service that answers when it is told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()

    async def __call__(self, connection: UpstreamConnection, seen: Seen) -> None:
        await connection.body(seen)
        self.asked.set()
        await self.answer.wait()
        await connection.send(response(b"late"))


@asynccontextmanager
async def in_flight(
    *, config_extra: str = "", clean: bool = True
) -> AsyncIterator[tuple[RunningProxy, Slow, asyncio.Task[httpx.Response]]]:
    """A proxy with one request in it, which waits for its service."""
    slow = Slow()
    async with (
        RawUpstream(slow).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, config_extra=config_extra, clean=clean) as proxy,
        httpx.AsyncClient(trust_env=False, timeout=60) as client,
    ):
        task = asyncio.create_task(client.get(proxy.url("/orders/42"), headers=proxy.headers("web")))
        await asyncio.wait_for(slow.asked.wait(), 60)
        yield proxy, slow, task
        slow.answer.set()
        await asyncio.gather(task, return_exceptions=True)


def refused(proxy: RunningProxy) -> bool:
    """Whether a new connection is refused."""
    try:
        socket.create_connection(("127.0.0.1", proxy.port), 5).close()
    except ConnectionRefusedError:
        return True
    return False


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def test_workers_share_the_socket_and_one_that_is_killed_is_replaced(opa_binary: Path) -> None:
    """While one is missing the others serve, the proxy is not ready, and its replacement leaves nothing behind."""
    async with (
        RawUpstream(replies(response())).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, workers=2) as proxy,
    ):
        before = proxy.worker_pids
        assert len(before) == 2
        opened = descriptors(proxy.pid)
        served: set[str] = set()
        for _ in range(60):
            assert await asyncio.to_thread(status_of, proxy) == 200
            served = {path.name.split("-")[1] for path in proxy.audit.glob("*.ndjson") if path.stat().st_size}
            if len(served) == 2:
                break
        assert served == {"w0", "w1"}

        for _ in range(2):
            victim = proxy.worker_pids[0]
            os.kill(victim, signal.SIGKILL)
            missing = await asyncio.to_thread(proxy.health)
            assert (missing[0], missing[1]["ready"], missing[1]["workers_ready"]) == (503, False, 1)
            for _ in range(10):
                assert await asyncio.to_thread(status_of, proxy) == 200
            await eventually(lambda: proxy.health()[0] == 200)
        assert len(proxy.worker_pids) == 2
        assert not set(before) & set(proxy.worker_pids)
        # The connections of the looks at its health may be a moment in ending, and OPA, which is asked two things at
        # once, may by now have a second one that is kept. What two deaths left behind would be more.
        await eventually(lambda: descriptors(proxy.pid) <= opened + 1)
        assert zombies(proxy.pid) == []
        assert "w0 was ended by SIGKILL; started again in" in proxy.log_text()

        async with connected(proxy.port), httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(proxy.url("/orders/42"), headers=proxy.headers())).status_code == 200
            began = time.monotonic()
            assert await asyncio.to_thread(proxy.stop) == 0
            # Idle connections do not hold it up for more than the grace, and others would for half a minute.
            assert time.monotonic() - began < 20


async def test_with_a_worker_for_each_core_each_keeps_to_its_own(opa_binary: Path) -> None:
    """With all its threads, and so does its replacement. Nothing else is kept to one."""
    mine = os.sched_getaffinity(0)
    cores = sorted(mine)[:2]

    def kept(pid: int) -> set[frozenset[int]]:
        return {frozenset(os.sched_getaffinity(int(task.name))) for task in Path(f"/proc/{pid}/task").iterdir()}

    os.sched_setaffinity(0, cores)
    try:
        async with running_proxy(upstreams={"orders": 9}, workers=len(cores)) as proxy:
            own = [{frozenset({core})} for core in cores]
            assert sorted(map(kept, proxy.worker_pids), key=str) == sorted(own, key=str)
            assert kept(proxy.opa_pid) == kept(proxy.pid) == {frozenset(cores)}
            os.kill(proxy.worker_pids[0], signal.SIGKILL)
            await eventually(lambda: proxy.health()[0] == 200 and len(proxy.worker_pids) == len(cores))
            assert sorted(map(kept, proxy.worker_pids), key=str) == sorted(own, key=str)
        async with running_proxy(
            upstreams={"orders": 9}, workers=len(cores), config_extra="pin_workers: false"
        ) as proxy:
            assert [kept(pid) for pid in proxy.worker_pids] == [{frozenset(cores)}] * len(cores)
    finally:
        os.sched_setaffinity(0, mine)


@pytest.mark.parametrize(
    ("workers", "cores", "pinned", "expected"),
    [
        (2, (3, 7), True, (3, 7)),
        (2, (3, 7), False, (None, None)),
        (1, (3, 7), True, (None,)),
        (3, (3, 7), True, (None, None, None)),
        (1, (3,), True, (None,)),
    ],
)
def test_a_worker_has_a_core_where_there_are_as_many(
    workers: int, cores: tuple[int, ...], pinned: bool, expected: tuple[int | None, ...]
) -> None:
    assert tuple(cores_of(workers, cores=cores, pinned=pinned)) == expected


async def test_without_its_supervisor_nothing_goes_on(opa_binary: Path) -> None:
    """Killed with no time for anything, it leaves no process, and what it leaves on the disk is no obstacle."""
    async with (
        RawUpstream(replies(response())).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, workers=2, clean=False) as proxy,
    ):
        family = descendants(proxy.pid)
        assert len(family) == 4  # two workers, OPA, and the tracker that multiprocessing starts
        os.kill(proxy.pid, signal.SIGKILL)
        assert await ended(proxy.process) == -signal.SIGKILL
        await all_gone(family)
        assert proxy.admin.exists()
        log = proxy.place / "again"
        with log.open("wb") as output:
            again = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "ostiary", "run", cwd=proxy.place, stderr=output
            )
        try:
            await eventually(lambda: "serving on" in log.read_text())
        finally:
            again.terminate()
            assert await again.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains(opa_binary: Path, number: signal.Signals) -> None:
    """What is in progress ends as if nothing were, nothing new is accepted, OPA ends last, and the exit status is 0.

    SIGINT goes to the workers too, as from a terminal.
    """
    async with in_flight() as (proxy, slow, task):
        opa, workers = proxy.opa_pid, proxy.worker_pids
        for pid in [proxy.pid, *(workers if number != signal.SIGTERM else ())]:
            os.kill(pid, number)
        await eventually(lambda: refused(proxy))
        assert (await asyncio.to_thread(proxy.health))[1]["draining"] is True
        assert not task.done()
        assert all(alive(pid) for pid in [opa, *workers])
        slow.answer.set()
        assert ((await task).status_code, (await task).content) == (200, b"late")
        assert await ended(proxy.process) == 0
        log = proxy.log_text()
    assert log.index("draining") < log.index("Shutting down")


async def test_what_does_not_end_by_the_drains_deadline_is_cut_off(opa_binary: Path) -> None:
    async with in_flight(config_extra="limits: {drain_timeout: 1s}\n") as (proxy, _, task):
        began = time.monotonic()
        assert await asyncio.to_thread(proxy.stop) == 0
        assert 0.9 < time.monotonic() - began < 20
        with pytest.raises(httpx.TransportError):
            await task
        decision, completion = proxy.audit_lines()
        assert (decision["decision_id"], decision["kind"]) == (completion["decision_id"], "decision")
        assert (completion["kind"], completion["outcome"], completion["bytes_sent"]) == ("completion", "cancelled", 0)


async def test_a_second_signal_does_not_wait(opa_binary: Path) -> None:
    async with in_flight(clean=False) as (proxy, _, task):
        proxy.process.send_signal(signal.SIGTERM)
        await eventually(lambda: refused(proxy))
        began = time.monotonic()
        proxy.process.send_signal(signal.SIGTERM)
        assert await ended(proxy.process) == 0
        assert time.monotonic() - began < 20  # the drain's deadline is 30 s
        with pytest.raises(httpx.TransportError):
            await task


async def test_a_worker_that_hangs_is_not_ready_and_killed_in_the_end(opa_binary: Path) -> None:
    extra = "limits: {drain_timeout: 0s}\n"
    async with (
        RawUpstream(replies(response())).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, config_extra=extra) as proxy,
    ):
        with stopped(proxy.worker_pids[0]):
            silent = await asyncio.to_thread(proxy.health)
            assert (silent[0], silent[1]["workers_ready"], silent[1]["audit"]) == (503, 0, None)
            assert await asyncio.to_thread(proxy.stop) == 0
        assert "w0 did not drain within 3 s: killed" in proxy.log_text()


async def test_the_admin_listener_tells_the_truth_to_this_machine_alone(proxy: RunningProxy) -> None:
    """A socket for its owner; health, metrics and nothing else; and on the data listener none of it."""
    assert stat.S_IMODE(proxy.admin.stat().st_mode) == 0o600
    assert stat.S_IMODE(proxy.admin.parent.stat().st_mode) == 0o700
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(proxy.admin))) as client:
        paths = ("/livez", "/readyz", "/health", "/metrics", "/")
        found = {path: await client.get(f"http://admin{path}") for path in paths}
        assert (await client.post("http://admin/readyz")).status_code == 405
    assert {path: one.status_code for path, one in found.items()} == {
        "/livez": 200,
        "/readyz": 200,
        "/health": 200,
        "/metrics": 200,
        "/": 404,
    }
    revision = found["/readyz"].json()["revision"]
    assert found["/livez"].json() == {"live": True}
    assert found["/readyz"].json() == {
        "ready": True,
        "draining": False,
        "policy": "serving",
        "revision": revision,
        "workers": 1,
        "workers_ready": 1,
        "audit": "writable",
        "keys": "all",
    }
    whole = found["/health"].json()
    (report,) = whole.pop("reports")
    assert whole.pop("configuration") == {"state": "current", "mistakes": []}
    assert whole.pop("opa_restarts") >= 0  # other tests of this proxy may have killed it
    assert whole == {**found["/readyz"].json(), "observed": {}}
    assert (report["worker"], report["audit"]["writable"], report["audit"]["lost"]) == ("w0", True, 0)
    assert [(issuer["issuer"], issuer["ready"]) for issuer in report["issuers"]] == [(proxy.trusted.issuer, True)]
    assert set(report["services"]) == {"orders"}
    assert report["decisions"]["hits"] >= 0
    assert revision.startswith("1-")
    async with httpx.AsyncClient(trust_env=False) as client:
        statuses = {
            (host, path): (await client.get(proxy.url(path), headers={"host": host})).status_code
            for host in ("orders.localhost", "ostiary.localhost", "127.0.0.1")
            for path in ("/livez", "/readyz", "/health", "/metrics")
        }
    assert set(statuses.values()) <= {401, 403, 404, 421}
