"""Processes that are measured: started on chosen cores, and read from /proc, so that a bench runs on Linux."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

ROOT: Final = Path(__file__).resolve().parent.parent
BUILD: Final = ROOT / "build"

Process: TypeAlias = subprocess.Popen[str]

_CORES: Final = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]

MEASURED: Final = frozenset(_CORES[:1])
"""The core of what is measured: the proxy with its OPA, or Envoy."""
LOAD: Final = frozenset(_CORES[1:2] or _CORES)
"""The core of both ends: the load and the upstream."""
ALL: Final = MEASURED | LOAD

_PATIENCE: Final = 60.0
"""Seconds for a process to listen."""


# starting


@contextlib.contextmanager
def started(
    command: Sequence[Any], cores: Iterable[int], *, log: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """A process for as long as the context is open, with its standard error in `log` and `env` beside our own."""
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(log.open("w")) if log else subprocess.DEVNULL
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=pinned(cores),
        )
        try:
            yield process
        finally:
            _end(process)


def _end(process: Process) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()


def pinned(cores: Iterable[int]) -> Callable[[], None]:
    """What a child calls before it becomes another program."""
    chosen = set(cores)

    def pin() -> None:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, chosen)

    return pin


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def until_listening(port: int, process: Process, log: Path | None = None) -> None:
    """Until something answers HTTP there, whatever it says. `log` is shown if the process ends instead."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = log.read_text(encoding="utf-8") if log is not None else ""
            raise SystemExit(f"{process.args!r} ended with {process.returncode}\n{said}")
        with contextlib.suppress(OSError):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1).close()
            except urllib.error.HTTPError as error:
                error.close()
            return
        time.sleep(0.05)
    raise SystemExit(f"{process.args!r} did not listen in time")


# reading


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a contestant has used: CPU in seconds since its start, memory in bytes that are resident now.

    OPA's apart from all else. Of memory, the largest process counts: of a proxy, that is a worker.
    """

    cpu: float = 0.0
    opa_cpu: float = 0.0
    resident: int = 0
    opa_resident: int = 0


def usage(pid: int) -> Usage:
    """Of a process and all below it."""
    cpu, resident = [0.0, 0.0], [0, 0]
    for one in family(pid):
        name, seconds = parse_stat(_read(one, "stat"), ticks=os.sysconf("SC_CLK_TCK"))
        which = 1 if name == "opa" else 0
        cpu[which] += seconds
        resident[which] = max(resident[which], parse_resident(_read(one, "status")))
    return Usage(cpu=cpu[0], opa_cpu=cpu[1], resident=resident[0], opa_resident=resident[1])


def resident(pid: int) -> int:
    """Bytes of one process's memory that are resident now (VmRSS)."""
    return parse_resident(_read(pid, "status"))


def cpu_seconds(pid: int) -> float:
    """CPU time that all threads of one process have used since its start, to the nanosecond.

    By the clock that clock_getcpuclockid(3) has for it; the kernel's half of its number is CPUCLOCK_SCHED.
    """
    return time.clock_gettime((~pid << 3) | 2)


def busy_seconds(cores: Iterable[int]) -> float:
    """What these cores have spent since the machine's start on anything at all, the hypervisor's share included."""
    text = Path("/proc/stat").read_text(encoding="ascii")
    return sum(parse_busy(text, core, ticks=os.sysconf("SC_CLK_TCK")) for core in cores)


def family(pid: int) -> set[int]:
    """The process and all below it."""
    found, todo = set(), [pid]
    while todo:
        one = todo.pop()
        found.add(one)
        todo += children(one)
    return found


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text(encoding="ascii").split()]


def _read(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8")


def parse_stat(text: str, *, ticks: int) -> tuple[str, float]:
    """Name and CPU seconds (user and system) from /proc/PID/stat, proc(5). A name may hold spaces and parentheses."""
    before, _, after = text.rpartition(")")
    fields = after.split()
    return before.partition("(")[2], (int(fields[11]) + int(fields[12])) / ticks


def parse_busy(text: str, core: int, *, ticks: int) -> float:
    """Seconds from /proc/stat, proc(5): all of a core's but `idle` and `iowait`; `guest` is in `user` already."""
    for line in text.splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _, _, irq, softirq, steal, *_ = map(int, fields)
            return (user + nice + system + irq + softirq + steal) / ticks
    raise ValueError(f"there is no core {core}")


def parse_resident(text: str) -> int:
    """Bytes of VmRSS from /proc/PID/status; 0 of a process that has ended and was not waited for."""
    for line in text.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
