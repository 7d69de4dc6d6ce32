"""What OPA's process uses for a batch of 32 decisions, beside 32 questions about one decision each.

Both ways the proxy's own client asks over the unix socket; the 32 questions are asked together, each on a kept-alive
connection of its own. OPA runs on one core, the client on another.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.processes import LOAD, MEASURED, cpu_seconds
from benchmarks.rego.questions import TOGETHER, mixed_batch, plain_batch
from benchmarks.rego.sidecars import managed
from benchmarks.rounds import Spread
from benchmarks.targets import Target
from ostiary.models import Json
from ostiary.opa.client import OpaClient

ROUNDS: Final = 8
REPEATED: Final = 60
"""How often in a turn."""

MOST: Final = 0.5
"""Of the CPU time of single questions."""
PLAIN: Final = "standing permissions"
BATCHES: Final = {PLAIN: plain_batch, "decisions of all kinds": mixed_batch}

Documents = Sequence[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Round:
    """Microseconds of OPA's CPU time for each decision."""

    single: float
    batch: float

    @property
    def ratio(self) -> float:
        return self.batch / self.single


async def compare(opa: Path, bundle: Path, place: Path) -> Mapping[str, Sequence[Round]]:
    """The rounds of each kind of batch, by its name. `place` is made, and has a short path."""
    with _own_cores():
        os.sched_setaffinity(0, MEASURED)  # which OPA inherits
        async with managed(opa, bundle, place) as sidecar:
            os.sched_setaffinity(0, LOAD)
            async with OpaClient(address=sidecar.address, deadline=60) as client:
                return {name: await _rounds(client, sidecar.pid, make()) for name, make in BATCHES.items()}


async def _rounds(client: OpaClient, pid: int, documents: Documents) -> Sequence[Round]:
    async def single() -> list[Json]:
        return [answer.result for answer in await asyncio.gather(*(client.query(one) for one in documents))]

    async def batch() -> list[Json]:
        return [answer.result for answer in await client.query_batch(documents)]

    for _ in range(REPEATED // 2):  # to warm up
        if await single() != await batch():
            raise SystemExit("a batch is not answered as its questions are")
    found = []
    for number in range(ROUNDS):
        turns = [single, batch] if number % 2 == 0 else [batch, single]
        took = {turn: await _cpu(pid, turn) for turn in turns}
        found.append(Round(single=took[single], batch=took[batch]))
    return found


async def _cpu(pid: int, turn: Callable[[], Awaitable[object]]) -> float:
    before = cpu_seconds(pid)
    for _ in range(REPEATED):
        await turn()
    return (cpu_seconds(pid) - before) / (REPEATED * TOGETHER) * 1e6


@contextlib.contextmanager
def _own_cores() -> Iterator[None]:
    """Gives this thread its cores back in the end."""
    before = os.sched_getaffinity(0)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def rows(found: Mapping[str, Sequence[Round]]) -> list[dict[str, Any]]:
    return [
        {
            "requests": name,
            "together": TOGETHER,
            "rounds": len(rounds),
            "single_us": asdict(Spread.of(one.single for one in rounds)),
            "batch_us": asdict(Spread.of(one.batch for one in rounds)),
            "of_single": asdict(Spread.of(one.ratio for one in rounds)),
        }
        for name, rounds in found.items()
    ]


def targets(found: Mapping[str, Sequence[Round]]) -> list[Target]:
    """Of the most frequent: the dearer a decision is by itself, the less there is to save."""
    return [
        Target(
            name=f"a batch of {TOGETHER}, {row['requests']}: CPU time of OPA",
            value=row["of_single"]["median"],
            bound=MOST,
            side="at most",
            unit="× single questions",
        )
        for row in rows(found)
        if row["requests"] == PLAIN
    ]


def show(found: Mapping[str, Sequence[Round]]) -> None:
    print(f"\n{'CPU time of OPA, µs a decision':34}{'single':>8}{'in a batch':>12}{'':4}of single")
    for row in rows(found):
        ratio = row["of_single"]
        print(
            f"{row['requests']:34}{row['single_us']['median']:8.0f}{row['batch_us']['median']:12.0f}{'':4}"
            f"{ratio['median']:.2f} ({ratio['least']:.2f} – {ratio['greatest']:.2f})"
        )
