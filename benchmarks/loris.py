"""`make loris`: what slow clients do to good ones. Exit status 1 if the target is missed.

Two thousand connections, from 127.0.0.2 and up, begin a request and go on with a byte of a header a second. The proxy,
as it is installed and with its default limits, answers each 408 after `header_timeout`, and each then comes again: two
hundred a second. On other connections good clients send what they always do. Rounds with and without the slow ones
take turns, as in the other benchmarks, and the median of the rounds' ratios of the good clients' p99 counts.

The slow clients share the core of the load and the upstream, so what they cost there is part of what is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import uvloop

from benchmarks.contestants import EVERYTHING, Field, all_ready
from benchmarks.deployment import deployed
from benchmarks.messages import HOST, get
from benchmarks.processes import LOAD, ROOT, pinned
from benchmarks.traffic import quantile, traffic

SLOW: Final = 2000
"""Connections at a time."""
PEERS: Final = 200
"""Addresses that they come from."""
SPREAD: Final = 10.0
"""Seconds over which they come first: as many as they are borne, so that as many are thrown out in each."""
TARGET: Final = 2.0
"""How much longer the good clients' p99 may be."""

CONNECTIONS: Final = 8
ROUNDS: Final = 3
SECONDS: Final = 2.0
WARM_UP: Final = 0.5


async def _slowly(port: int, number: int, answers: list[int]) -> None:
    """One slow client: whenever it is thrown out it comes again."""
    source = f"127.0.0.{2 + number % PEERS}"
    await asyncio.sleep(SPREAD * number / SLOW)
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
        except OSError:
            await asyncio.sleep(1)
            continue
        answer = asyncio.ensure_future(reader.read(12))
        with contextlib.suppress(OSError):
            writer.write(f"GET /orders/42 HTTP/1.1\r\nHost: {HOST}\r\nX-Slow: ".encode())
            answers[0] += 1
            while not answer.done():
                await asyncio.wait([answer], timeout=1)
                writer.write(b"a")
            if answer.result() == b"HTTP/1.1 408":
                answers[1] += 1
        answer.cancel()
        writer.transport.abort()


async def _all_slowly(port: int) -> None:
    answers = [0, 0]
    clients = [asyncio.create_task(_slowly(port, number, answers)) for number in range(SLOW)]
    while answers[0] < SLOW:  # noqa: ASYNC110 # what is waited for is a count
        await asyncio.sleep(0.05)
    print("connected", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    print(f"{answers[1]} of {answers[0]} were answered 408", flush=True)
    for client in clients:
        client.cancel()
    os._exit(0)  # two thousand connections are closed best by not being there


def slow_clients(port: int) -> None:
    """The process of the slow clients. It ends with a line on its standard input."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_all_slowly(port))


def raise_limits() -> None:
    """Let this process and those that it starts have a socket for every client."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * SLOW
    if most != resource.RLIM_INFINITY and most < wanted:
        raise SystemExit(f"{wanted} open files are needed, and {most} are allowed (ulimit -n)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


@contextlib.contextmanager
def beside_slow_clients(port: int) -> Iterator[list[str]]:
    """All of them are connected as long as this is open. The list then has what they say of it."""
    command = [sys.executable, "-m", "benchmarks.loris", str(port)]
    said: list[str] = []
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=pinned(LOAD)
    ) as slow:
        if slow.stdout is None or slow.stdout.readline() != "connected\n":
            raise SystemExit("the slow clients did not connect")
        try:
            yield said
        finally:
            said.append(slow.communicate("\n")[0].strip())


def main() -> int:
    raise_limits()
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ostiary-bench-")))
        ends = stack.enter_context(traffic())
        field = Field(deployed(place / "orders", upstream=ends.port), stack)
        proxy = field.ostiary(EVERYTHING)
        requests = field.requests("order", get("/orders/42", field.token()))
        all_ready([proxy])

        def p99() -> float:
            run = ends.run(proxy.port, requests, connections=CONNECTIONS, seconds=SECONDS, ramp=WARM_UP)
            return quantile([run.latencies], 0.99)

        p99()  # warm
        ratios = []
        for _ in range(ROUNDS):
            alone = p99()
            with beside_slow_clients(proxy.port) as said:
                beside = p99()
            ratios.append(beside / alone)
            print(
                f"p99 {alone:.0f} µs, beside {SLOW} slow connections {beside:.0f} µs ({ratios[-1]:.2f}); {said[0]}",
                flush=True,
            )
            time.sleep(1)
    median = statistics.median(ratios)
    print(f"{median:.2f} times as long ({min(ratios):.2f} to {max(ratios):.2f}); the target is {TARGET:.2f}")
    return 0 if median <= TARGET else 1


if __name__ == "__main__":
    if len(sys.argv) > 1:
        slow_clients(int(sys.argv[1]))
    else:
        sys.exit(main())
