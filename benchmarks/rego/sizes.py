"""Maps from a thousand to a million permissions: how long they take to compile and to load, and what they weigh."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.rego.memory import settled
from benchmarks.rego.questions import permission_count, permission_map
from benchmarks.rego.sidecars import PATIENCE
from ostiary.opa.sidecar import ManagedOpa

SHAPES: Final = ((10, 10), (100, 100), (1000, 100))
"""Services, and endpoints of each, for ten callers."""
TINY: Final = (1, 10)
"""Of the map whose OPA's memory is taken away from that of the others."""

LONGEST: Final = 1800.0
"""Seconds for compiling one."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """`source` and `data` are the bytes of the map as it is written, and compiled; times are in seconds.

    `resident` is the memory of the managed OPA at start, in bytes.
    """

    services: int
    endpoints: int
    permissions: int
    source: int
    data: int
    compiling: float
    loading: float
    resident: int


async def measure(opa: Path, place: Path, *, shapes: Iterable[tuple[int, int]] = (TINY, *SHAPES)) -> list[Size]:
    """Each is compiled by `ostiary bundle build`, and loaded as `ostiary run` does. `place` has a short path."""
    return [await _measured(opa, place / str(number), *shape) for number, shape in enumerate(shapes)]


async def _measured(opa: Path, place: Path, services: int, endpoints: int) -> Size:
    source, bundle, compiling = compiled(place, permission_map(services, endpoints))
    began = time.monotonic()
    async with ManagedOpa(binary=opa, bundle=bundle, directory=place / "run", start_timeout=PATIENCE) as owner:
        loading = time.monotonic() - began
        if owner.pid is None:
            raise SystemExit("OPA has ended")
        return Size(
            services=services,
            endpoints=endpoints,
            permissions=permission_count(services, endpoints),
            source=source.stat().st_size,
            data=(bundle / "data.json").stat().st_size,
            compiling=compiling,
            loading=loading,
            resident=await settled(owner.pid),
        )


def compiled(place: Path, permissions: str) -> tuple[Path, Path, float]:
    """The map as it is written, the bundle that `ostiary bundle build` makes of it, and the seconds that takes."""
    source, bundle = place / "source", place / "bundle"
    source.mkdir(parents=True)
    written = source / "permissions.yaml"
    written.write_text(permissions, encoding="utf-8")
    command: list[str | Path] = [sys.executable, "-m", "ostiary", "bundle", "build", source, "-o", bundle]
    began = time.monotonic()
    subprocess.run([*command, "--sequence", "1"], check=True, stdout=subprocess.DEVNULL, timeout=LONGEST)
    return written, bundle, time.monotonic() - began


def rows(sizes: Sequence[Size]) -> list[dict[str, Any]]:
    """All but the first, which is the tiny one."""
    tiny, *others = sizes
    return [
        {
            "permissions": one.permissions,
            "services": one.services,
            "endpoints_each": one.endpoints,
            "source_bytes": one.source,
            "data_bytes": one.data,
            "compile_seconds": one.compiling,
            "load_seconds": one.loading,
            "resident_bytes": one.resident,
            "tiny_resident_bytes": tiny.resident,
            "per_permission_bytes": (one.resident - tiny.resident) / (one.permissions - tiny.permissions),
        }
        for one in others
    ]


def show(sizes: Sequence[Size]) -> None:
    print(f"\n{'permissions':>12}{'compile s':>11}{'load s':>8}{'OPA MB':>8}{'B a permission':>16}{'data MB':>9}")
    for row in rows(sizes):
        print(
            f"{row['permissions']:12,}{row['compile_seconds']:11.1f}{row['load_seconds']:8.2f}"
            f"{row['resident_bytes'] / 1e6:8.0f}{row['per_permission_bytes']:16.0f}{row['data_bytes'] / 1e6:9.1f}"
        )
