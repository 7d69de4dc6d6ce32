"""The machine under a proxy, as a test wants it: clocks that are stepped, names that resolve to something else or not
at all, and descriptors that run out.

`Machine` is used by what `running_proxy(environment=machine.environment)` is given: see `machine/sitecustomize.py`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import struct
from collections.abc import Iterator
from pathlib import Path


class Machine:
    """The clocks and the resolver of the processes that are started with `environment`."""

    def __init__(self, place: Path) -> None:
        self._clocks = place / "clocks"
        self._hosts = place / "hosts"
        self._disk = place / "disk"
        self._wall = self._monotonic = 0.0
        self._write()
        self.resolve({})

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PYTHONPATH": str(Path(__file__).with_name("machine")),
            "MACHINE_CLOCKS": str(self._clocks),
            "MACHINE_HOSTS": str(self._hosts),
            "MACHINE_DISK": str(self._disk),
        }

    def step(self, seconds: float) -> None:
        """Set the clock forward, or back: Unix time jumps, the time that passes does not."""
        self._wall += seconds
        self._write()

    def pass_time(self, seconds: float) -> None:
        """So much later. What sleeps is not woken: timers are the event loop's."""
        self._wall += seconds
        self._monotonic += seconds
        self._write()

    def resolve(self, names: dict[str, str] | None) -> None:
        """Names below .test and their addresses; None: the resolver does not answer."""
        if names is None:
            self._hosts.unlink(missing_ok=True)
            return
        fresh = self._hosts.with_suffix(".new")
        fresh.write_text("".join(f"{name} {address}\n" for name, address in names.items()))
        fresh.replace(self._hosts)

    def disk(self, fault: str | None) -> None:
        """What is written to an audit fails, or takes seconds: `write EPIPE`, `fsync EIO`, `write 3`. None: no more."""
        if fault is None:
            self._disk.unlink(missing_ok=True)
            return
        fresh = self._disk.with_suffix(".new")
        fresh.write_text(fault)
        fresh.replace(self._disk)

    def _write(self) -> None:
        if not self._clocks.exists():
            self._clocks.write_bytes(bytes(16))
        with self._clocks.open("r+b") as file:  # in place: it is mapped
            file.write(struct.pack("dd", self._wall, self._monotonic))


def descriptors(pid: int) -> int:
    """How many a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def connections_to(port: int) -> int:
    """How many sockets, of any process, are connected to a port of 127.0.0.1 or were until a moment ago."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    # One that its process has closed has no inode, however long the kernel still keeps it.
    return sum(fields[2] == f"0100007F:{port:04X}" and fields[9] != "0" for fields in lines)


@contextlib.contextmanager
def few_descriptors(pid: int, *, spare: int) -> Iterator[None]:
    """A process that may open so many more than it has, and no more."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    numbers = sorted(int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir())
    # The limit is on the number of a descriptor, and lower numbers may be free.
    limit, free = 0, 0
    while free < spare or limit <= numbers[-1]:
        free += limit not in numbers
        limit += 1
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
