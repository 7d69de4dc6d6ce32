"""The parts of the Rego bench, each with what it measures and its targets."""

from __future__ import annotations

import asyncio
import time
from functools import cached_property
from pathlib import Path
from typing import Final

from benchmarks.rego import batch, evaluation, memory, sizes
from benchmarks.rego.questions import ENDPOINTS, SERVICES, permission_count, permission_map, questions
from benchmarks.rego.report import Part
from benchmarks.targets import Target
from ostiary import assets
from ostiary.opa.install import ensure_opa
from ostiary.policy.bundle import build_bundle

LONGEST_COMPILING: Final = 20
"""Seconds, for the large map."""
LARGE: Final = (SERVICES, ENDPOINTS)
TINY: Final = (1, 10)


class Bench:
    """What the parts share. `place` has a short path: OPA's socket is below it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.opa = ensure_opa()
        self.compile_seconds = 0.0
        """Of the large map, once it is compiled."""

    @cached_property
    def large(self) -> Path:
        began = time.monotonic()
        bundle = self.compiled("large", LARGE)
        self.compile_seconds = time.monotonic() - began
        return bundle

    def compiled(self, name: str, shape: tuple[int, int], *, denied: str = "endpoint-1") -> Path:
        source = self.place / name
        source.mkdir()
        (source / "permissions.yaml").write_text(permission_map(*shape, denied=denied), encoding="utf-8")
        out = self.place / f"{name}.bundle"
        return build_bundle(source, out, opa=self.opa, sequence=1, rego_root=assets.rego()).path


def evaluate(bench: Bench) -> Part:
    costs = evaluation.measure(bench.opa, bench.large, bench.place, questions())
    evaluation.show(costs)
    compiling = Target(
        name=f"compiling {permission_count():,} permissions",
        value=bench.compile_seconds,
        bound=LONGEST_COMPILING,
        side="at most",
        unit="s",
    )
    members = {"compile_seconds": bench.compile_seconds, "rows": evaluation.rows(costs)}
    return Part(name="evaluation", members=members, targets=[compiling, *evaluation.targets(costs)])


def weigh(bench: Bench) -> Part:
    place = bench.place / "m"
    place.mkdir()
    bundles = {
        permission_count(*TINY): (
            bench.compiled("tiny", TINY),
            bench.compiled("changed-tiny", TINY, denied="endpoint-2"),
        ),
        permission_count(*LARGE): (bench.large, bench.compiled("changed-large", LARGE, denied="endpoint-2")),
    }
    weights = asyncio.run(memory.weigh(bench.opa, bundles, place))
    memory.show(weights)
    return Part(name="memory", members={"memory": memory.rows(weights)}, targets=memory.targets(weights))


def ask_together(bench: Bench) -> Part:
    found = asyncio.run(batch.compare(bench.opa, bench.large, bench.place / "b"))
    batch.show(found)
    return Part(name="batch", members={"batch": batch.rows(found)}, targets=batch.targets(found))


def grow(bench: Bench) -> Part:
    found = asyncio.run(sizes.measure(bench.opa, bench.place / "s"))
    sizes.show(found)
    return Part(name="sizes", members={"sizes": sizes.rows(found)})
