"""Access is given and taken away, again and again, while every worker is asked for it without a pause."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.policy.distributing import quantile
from benchmarks.processes import ALL, busy_seconds, usage
from benchmarks.revoke.connection import Answer
from benchmarks.revoke.load import ALLOWED, REFUSED, Load
from benchmarks.revoke.people import People
from benchmarks.targets import Target

_PAGE: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Times are in seconds. `given` and `taken` are from a call to its acknowledgement; `opened` from the one
    acknowledgement until every connection was let through, `closed` from the other until the last answer that let a
    request through which was sent after it, 0 if none did. `refused` and `allowed` count those that were sent after an
    acknowledgement and were answered as if it had not been."""

    given: float
    opened: float
    refused: int
    taken: float
    closed: float
    allowed: int

    @classmethod
    def of(cls, seen: Sequence[Answer], *, approval: Answer, opened: float, revocation: Answer) -> Trial:
        held = [one for one in seen if one.sent > approval.received and one.received < revocation.sent]
        after = [one for one in seen if one.sent > revocation.received and one.status == ALLOWED]
        return cls(
            given=approval.received - approval.sent,
            opened=opened - approval.received,
            refused=sum(one.status != ALLOWED for one in held),
            taken=revocation.received - revocation.sent,
            closed=max((one.received - revocation.received for one in after), default=0.0),
            allowed=len(after),
        )


async def run_trials(load: Load, people: People, *, trials: int, disk: Disk | None = None) -> list[Trial]:
    """While `load` is on. Before each of them, the disk is asked how long it takes."""
    found = []
    for _ in range(trials):
        if disk is not None:
            await asyncio.to_thread(disk.write)
        found.append(await _trial(load, people))
    return found


class Disk:
    """Where the store and the audit are: what is acknowledged there has waited for it. `seconds` are those of writes
    that were on disk after them."""

    def __init__(self, place: Path) -> None:
        self._place = place / "disk"
        self.seconds: list[float] = []

    def write(self) -> None:
        with self._place.open("ab", buffering=0) as file:
            file.write(bytes(_PAGE))
            began = time.monotonic()
            os.fsync(file.fileno())
            self.seconds.append(time.monotonic() - began)


async def _trial(load: Load, people: People) -> Trial:
    load.seen.clear()
    given = await people.give("orders", "get-invoice")
    opened = await load.until(given.approval.received, ALLOWED)
    await pause(0.01, 0.02)  # every worker keeps the decision
    revocation = await people.revoke(given.id)
    await load.until(revocation.received, REFUSED)
    await pause(0.005, 0.01)  # what was taken away must not come back
    return Trial.of(load.seen, approval=given.approval, opened=opened, revocation=revocation)


async def pause(least: float, most: float) -> None:
    """A random one, so that no beat is kept."""
    await asyncio.sleep(random.uniform(least, most))  # noqa: S311


@contextlib.contextmanager
def meanwhile() -> Iterator[dict[str, Any]]:
    """What the machine had to do while this was open: the shares of the cores' time that this bench, with what it has
    started, and all others used."""
    found: dict[str, Any] = {}
    began, busy, own = time.monotonic(), busy_seconds(ALL), _own()
    yield found
    cores = (time.monotonic() - began) * len(ALL)
    used = _own() - own
    found["own"] = used / cores
    found["others"] = max(0.0, busy_seconds(ALL) - busy - used) / cores
    found["load_average"] = os.getloadavg()[0]


def _own() -> float:
    found = usage(os.getpid())
    return found.cpu + found.opa_cpu


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    values = [each * 1000 for each in seconds]
    return {"p50_ms": quantile(values, 0.5), "p99_ms": quantile(values, 0.99), "most_ms": max(values)}


def told(name: str, found: dict[str, float]) -> str:
    return f"{name} p50 {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.1f}, most {found['most_ms']:.1f}"


def at_most(name: str, value: float, bound: float, *, unit: str = "ms") -> Target:
    return Target(name=name, value=value, bound=bound, side="at most", unit=unit)


def show_wrong(load: Load) -> None:
    for line in load.wrong[:10]:
        print(f"  wrong: {line}", file=sys.stderr)


def show_machine(found: dict[str, Any]) -> None:
    print(
        f"  the bench used {found['own']:.0%} of the cores, others {found['others']:.0%}, "
        f"load average {found['load_average']:.1f}",
        flush=True,
    )
