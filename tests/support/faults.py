"""Whole proxies whose configuration is changed, proxies that cannot start, and processes that are done harm to."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from support.proxy import TRUSTING_NOBODY, RunningProxy, Trusted, alive, children, command_line, running_proxy

START = 60.0
"""Seconds for a start that fails to have failed."""
PATIENCE = 60.0
"""Seconds for what is to happen: only so that what does not happen ends."""


@dataclass
class changed_proxy(running_proxy):  # noqa: N801 - a context manager, used like a function
    """A proxy with another text in its ostiary.yaml: each key of `changes` is replaced by its value, once."""

    changes: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    def _configuration(self, trusted: Trusted) -> str:
        text = super()._configuration(trusted)
        for old, new in self.changes.items():
            if text.count(old) != 1:
                raise ValueError(f"{old!r} is in the configuration {text.count(old)} times")
            text = text.replace(old, new)
        return text


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit status, what it said, and the processes that it left behind."""

    status: int
    said: str
    left: list[bytes]


def run_until_it_ends(place: Path) -> Ended:
    """`ostiary run` in a directory where it is expected to fail."""
    done = subprocess.run(
        [sys.executable, "-m", "ostiary", "run"],
        cwd=place,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **TRUSTING_NOBODY},
        timeout=START,
        check=False,
    )
    return Ended(done.returncode, done.stdout.decode(), [command_line(pid) for pid in processes_of(place)])


def processes_of(place: Path) -> list[int]:
    """Those that run in a directory or name it in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            here = (path / "cwd").readlink() == place or bytes(place) in (path / "cmdline").read_bytes()
            if here and alive(int(path.name)):
                found.append(int(path.name))
    return found


def descendants(pid: int) -> list[int]:
    """Every process that it has started, and those that these have."""
    found = children(pid)
    return found + [one for child in found for one in descendants(child)]


def zombies(pid: int) -> list[int]:
    """Those of its children that have ended and that it has not waited for."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if (state, int(parent)) == ("Z", pid):
                found.append(int(path.parent.name))
    return found


async def all_gone(pids: list[int], *, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < deadline, f"left behind: {[command_line(pid) for pid in left]}"
        await asyncio.sleep(0.02)


async def eventually(holds: Callable[[], bool], *, seconds: float = PATIENCE) -> float:
    """Wait until it holds; how long that took."""
    began = time.monotonic()
    while not await asyncio.to_thread(holds):
        assert time.monotonic() - began < seconds, f"it does not hold after {seconds} s"
        await asyncio.sleep(0.03)
    return time.monotonic() - began


async def ended(process: subprocess.Popen[bytes], *, seconds: float = PATIENCE) -> int:
    """Its exit status, once it has ended."""
    return await asyncio.to_thread(process.wait, seconds)


def asked(
    proxy: RunningProxy, path: str = "/orders/42", *, subject: str = "web", **claims: str
) -> tuple[int, list[str]]:
    """Ask once, on a connection of its own: the status, and the reasons of a refusal."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    try:
        connection.request("GET", path, headers=proxy.headers(subject, **claims))
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body)["reasons"] if answer.status >= 400 else []
    finally:
        connection.close()


def status_of(proxy: RunningProxy, path: str = "/orders/42", *, subject: str = "web", **claims: str) -> int:
    return asked(proxy, path, subject=subject, **claims)[0]


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that stands still: there, and without an answer."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def free_port() -> int:
    """A port on which nobody listens, and which nobody is given who does not ask for it: outgoing connections take
    theirs from above 32768 (Linux) or 49152 (others)."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
