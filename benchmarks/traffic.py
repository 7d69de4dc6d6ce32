"""Both ends of a measurement: the program in `load/`, as upstream and as load."""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.processes import BUILD, LOAD, MEASURED, ROOT, pinned, started, usage


class VoidRound(SystemExit):
    """What was measured is not what was meant: an error, or an answer other than 2xx."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a load run saw. `sent` counts what was answered before counting began, too.

    `latencies` has nanoseconds, rounded to three digits, and how many requests took so long. `load_cpu` is in seconds,
    both ends together.
    """

    requests: int
    seconds: float
    sent: int
    latencies: Mapping[int, int]
    load_cpu: float = 0.0

    @classmethod
    def parse(cls, document: Mapping[str, Any], *, load_cpu: float = 0.0) -> Self:
        """From what the load program prints. Raises `VoidRound`."""
        refused = {status: count for status, count in document["statuses"].items() if not status.startswith("2")}
        if document["errors"] or refused or not document["requests"]:
            told = {name: value for name, value in document.items() if name != "latencies_ns"}
            raise VoidRound(f"the round is void: {told}")
        return cls(
            requests=document["requests"],
            seconds=document["seconds"],
            sent=document["sent"],
            latencies={int(value): count for value, count in document["latencies_ns"].items()},
            load_cpu=load_cpu,
        )


def quantile(latencies: Iterable[Mapping[int, int]], q: float) -> float:
    """In microseconds, over all of them together: the least value that a share `q` of the requests stayed within."""
    together: Counter[int] = Counter()
    for one in latencies:
        together.update(one)
    wanted = q * together.total()
    seen = 0
    for value in sorted(together):
        seen += together[value]
        if seen >= wanted:
            return value / 1000
    raise ValueError("no latency")


class Traffic:
    """The load program, built, with an upstream that runs as long as `traffic()` is open."""

    def __init__(self, binary: Path, upstream: int, port: int) -> None:
        self._binary = binary
        self._upstream = upstream
        self.port = port
        """Where the upstream listens."""

    def run(self, port: int, requests: Path, *, connections: int, seconds: float, ramp: float, first: int = 0) -> Run:
        """Send the requests of a file to a port. `first` is the number of the one to begin with."""
        command: list[Any] = [self._binary, "run", "--address", f"127.0.0.1:{port}", "--requests", requests]
        command += ["--connections", str(connections), "--seconds", str(seconds)]
        command += ["--ramp", str(ramp), "--from", str(first)]
        before = self._cpu()
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, preexec_fn=pinned(LOAD), text=True)
        if done.returncode:
            raise VoidRound(f"the load program ended with {done.returncode}")
        return Run.parse(json.loads(done.stdout), load_cpu=self._cpu() - before)

    def _cpu(self) -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)  # those that have ended: the load
        return children.ru_utime + children.ru_stime + usage(self._upstream).cpu


@contextlib.contextmanager
def traffic() -> Iterator[Traffic]:
    if MEASURED == LOAD:
        raise SystemExit("the bench needs two cores: one for what is measured, one for both ends")
    binary = BUILD / "load"
    BUILD.mkdir(exist_ok=True)
    subprocess.run(["go", "build", "-o", binary, "."], cwd=ROOT / "benchmarks" / "load", check=True)
    with started([binary, "upstream"], LOAD) as process:
        if process.stdout is None:
            raise SystemExit("the upstream did not start")
        yield Traffic(binary, process.pid, int(process.stdout.readline().rpartition(":")[2]))
