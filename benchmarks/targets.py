"""The targets, and what was reached of each. All are about one core, and 32 connections where nothing else is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from benchmarks.contestants import DIRECT, ENVOY, EVERYTHING, PER_CALL, SCRIPTED, TWO_WORKERS, UNCACHED
from benchmarks.rounds import Outcome, Sample

KEPT_DECISIONS: Final = 100_000
MEGABYTE: Final = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Target:
    """A value in some `unit` that has to be on one `side` of its bound. `aim` lies beyond."""

    name: str
    value: float
    bound: float
    side: Literal["at least", "at most"] = "at least"
    unit: str = "× Envoy"
    aim: float | None = None

    @property
    def met(self) -> bool:
        return self.value >= self.bound if self.side == "at least" else self.value <= self.bound

    def document(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": self.value,
            "target": self.bound,
            "met": self.met,
            "side": self.side,
            "unit": self.unit,
            "aim": self.aim,
        }


def reached(*, one: Outcome, many: Outcome, resident: int) -> Sequence[Target]:
    """From the contests at one connection and at 32, and the bytes that a worker with 100,000 decisions has."""

    def of_envoy(name: str) -> float:
        return many.ratio(name, _per_second).median

    return (
        Target(name="cached, everything on: throughput", value=of_envoy(EVERYTHING), bound=0.6, aim=0.8),
        Target(
            name="cached, everything on: added p50 at 1 connection",
            value=one.added_latency(EVERYTHING, to=ENVOY, direct=DIRECT).median,
            bound=2,
            side="at most",
        ),
        Target(name="uncached, OPA on every request: throughput", value=of_envoy(UNCACHED), bound=0.2, aim=0.3),
        Target(name="per-call credentials: throughput", value=of_envoy(PER_CALL), bound=0.3),
        Target(
            name="p99 (the worst of cached, uncached and per-call)",
            value=max(many.spread(name, _tail).median for name in (EVERYTHING, UNCACHED, PER_CALL)),
            bound=3,
            side="at most",
            unit="× p50",
        ),
        Target(
            name=f"a worker with {KEPT_DECISIONS:,} cached decisions: RSS",
            value=resident / MEGABYTE,
            bound=150,
            side="at most",
            unit="MB",
        ),
        Target(
            name="two workers: requests per proxy CPU-second",
            value=many.ratio(TWO_WORKERS, _of_a_cpu_second, to=EVERYTHING).median,
            bound=0.85,
            unit="× one worker",
        ),
        Target(name="floor, scripted authorizer: throughput", value=of_envoy(SCRIPTED), bound=0.3),
        Target(name="floor, OPA on every request: throughput", value=of_envoy(UNCACHED), bound=0.05),
    )


def _per_second(sample: Sample) -> float:
    return sample.per_second


def _tail(sample: Sample) -> float:
    return sample.p99 / sample.p50


def _of_a_cpu_second(sample: Sample) -> float:
    return sample.of_a_cpu_second
