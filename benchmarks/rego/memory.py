"""How much resident memory a permission takes in OPA: at start, after bundles were exchanged, and while it decides.

The memory is VmRSS of the one OPA process that answers, from /proc/PID/status. Of what an OPA with a large map has,
that which one with a tiny map has at the same stage is taken away, and the rest is divided by the permissions that the
large map has more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from benchmarks.processes import resident
from benchmarks.rego.questions import plain_batch
from benchmarks.rego.sidecars import Sidecar, fetching, managed
from benchmarks.rounds import Spread
from benchmarks.targets import Target
from ostiary.opa.client import OpaClient

RUNS: Final = 5
ACTIVATIONS: Final = 5
BATCHES: Final = 100
"""Of decisions, before what is called deciding is weighed."""

MANAGED: Final = "managed OPA"
FETCHING: Final = "one OPA that fetches bundles"
START: Final = "at start"
ACTIVATED: Final = f"after {ACTIVATIONS} activations"
DECIDING: Final = f"then after {BATCHES} batches of 32 decisions"

_UNIT: Final = "B a permission"

_READINGS: Final = 5
_BETWEEN: Final = 0.25
"""Seconds."""
_MOST_READINGS: Final = 100

Stages: TypeAlias = Mapping[str, int]
"""Resident bytes by stage."""
Pair: TypeAlias = tuple[Path, Path]
"""Two bundles of one size that differ."""


@dataclass(frozen=True, kw_only=True)
class Weight:
    """Resident bytes of an OPA of a kind at a stage, over the runs, and the permissions that its map has."""

    kind: str
    stage: str
    permissions: int
    resident: Spread


def is_settled(readings: Sequence[int]) -> bool:
    """Whether the last few are within a hundredth of each other."""
    last = readings[-_READINGS:]
    return len(last) == _READINGS and max(last) - min(last) <= max(last) / 100


async def settled(pid: int) -> int:
    """The resident bytes of a process, once they stay, while nobody asks it anything."""
    readings: list[int] = []
    while not is_settled(readings) and len(readings) < _MOST_READINGS:
        await asyncio.sleep(_BETWEEN)
        readings.append(resident(pid))
    return readings[-1]


async def weigh(opa: Path, bundles: Mapping[int, Pair], place: Path) -> list[Weight]:
    """Both kinds of OPA with each pair of bundles, by how many permissions they have. `place` has a short path.

    Those of a kind are weighed at the same time.
    """
    found: dict[tuple[str, int], list[Stages]] = {}
    for run in range(RUNS):
        for kind, start in ((MANAGED, managed), (FETCHING, fetching)):
            opened = [start(opa, pair[0], place / f"{kind[0]}{run}-{count}") for count, pair in bundles.items()]
            weighed = await asyncio.gather(*map(_staged, opened, bundles.values()))
            for count, stages in zip(bundles, weighed, strict=True):
                found.setdefault((kind, count), []).append(stages)
    return [
        Weight(kind=kind, stage=stage, permissions=count, resident=Spread.of(stages[stage] for stages in runs))
        for (kind, count), runs in found.items()
        for stage in (START, ACTIVATED, DECIDING)
    ]


async def _staged(opening: AbstractAsyncContextManager[Sidecar], pair: Pair) -> Stages:
    async with opening as sidecar:
        found = {START: await settled(sidecar.pid)}
        for number in range(1, ACTIVATIONS + 1):
            await sidecar.activate(pair[number % 2], sequence=1 + number)
        found[ACTIVATED] = await settled(sidecar.pid)
        async with OpaClient(address=sidecar.address, deadline=60) as client:
            for _ in range(BATCHES):
                await client.query_batch(plain_batch())
        found[DECIDING] = await settled(sidecar.pid)
    return found


def per_permission(large: Weight, tiny: Weight) -> float:
    """Bytes, by the medians."""
    more = large.permissions - tiny.permissions
    return (large.resident.median - tiny.resident.median) / more


def rows(weights: Sequence[Weight]) -> list[dict[str, Any]]:
    """A row for each kind and stage: the largest map beside the smallest."""
    most, least = (pick(one.permissions for one in weights) for pick in (max, min))
    found = []
    tiny_ones = {(one.kind, one.stage): one for one in weights if one.permissions == least}
    for large in (one for one in weights if one.permissions == most):
        tiny = tiny_ones[large.kind, large.stage]
        found.append(
            {
                "opa": large.kind,
                "stage": large.stage,
                "permissions": most,
                "resident_bytes": asdict(large.resident),
                "tiny_permissions": least,
                "tiny_resident_bytes": asdict(tiny.resident),
                "per_permission_bytes": per_permission(large, tiny),
            }
        )
    return found


def targets(weights: Sequence[Weight]) -> list[Target]:
    found = {(row["opa"], row["stage"]): row["per_permission_bytes"] for row in rows(weights)}
    return [
        Target(name=f"memory, {kind}, {stage}", value=found[kind, stage], bound=bound, side="at most", unit=_UNIT)
        for kind, stage, bound in ((MANAGED, START, 400), (MANAGED, ACTIVATED, 800), (FETCHING, ACTIVATED, 800))
    ]


def show(weights: Sequence[Weight]) -> None:
    print(f"\n{'resident memory of OPA':72}{'MB':>8}{'tiny map':>10}{'B a permission':>16}")
    for row in rows(weights):
        large, tiny = row["resident_bytes"], row["tiny_resident_bytes"]
        print(
            f"{row['opa'] + ', ' + row['stage']:72}{large['median'] / 1e6:8.1f}{tiny['median'] / 1e6:10.1f}"
            f"{row['per_permission_bytes']:16.0f}"
        )
