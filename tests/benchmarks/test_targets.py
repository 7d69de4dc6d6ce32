"""A target is met on its own side of its bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.contestants import (
    DIRECT,
    ENVOY,
    EVERYTHING,
    PER_CALL,
    SCRIPTED,
    TWO_WORKERS,
    UNCACHED,
    Contestant,
)
from benchmarks.processes import Usage
from benchmarks.rounds import Contest, Entry, Outcome, Sample
from benchmarks.targets import Target, reached
from benchmarks.traffic import Run


def sample(*, per_second: int, p50_us: int = 100, p99_us: int = 200, cpu_us: float = 100.0) -> Sample:
    """Of one second, in which nine requests in ten took `p50_us` and the others `p99_us`."""
    most = per_second * 9 // 10
    return Sample(
        run=Run(
            requests=per_second,
            seconds=1.0,
            sent=per_second,
            latencies={p50_us * 1000: most, p99_us * 1000: per_second - most},
        ),
        before=Usage(),
        after=Usage(cpu=cpu_us * per_second / 1e6),
        until=0.0,
    )


def outcome(samples: dict[str, Sample]) -> Outcome:
    entries = [Entry(contestant=Contestant(name=name, port=1), requests=Path()) for name in samples]
    contest = Contest(title="", connections=1, entries=entries, seconds=1)
    return Outcome(contest, {name: [one] for name, one in samples.items()})


ONE = outcome(
    {
        DIRECT: sample(per_second=10_000, p50_us=50),
        ENVOY: sample(per_second=5_000, p50_us=150),
        EVERYTHING: sample(per_second=3_000, p50_us=200),
    }
)
MANY = outcome(
    {
        ENVOY: sample(per_second=20_000),
        EVERYTHING: sample(per_second=10_000, p50_us=100, p99_us=150),
        UNCACHED: sample(per_second=5_000, p50_us=100, p99_us=400),
        PER_CALL: sample(per_second=8_000),
        SCRIPTED: sample(per_second=11_000),
        TWO_WORKERS: sample(per_second=12_000, cpu_us=125.0),
    }
)


def test_each_target_is_a_ratio_within_the_run() -> None:
    found = {target.name: target for target in reached(one=ONE, many=MANY, resident=120_000_000)}
    assert {name: (target.value, target.met) for name, target in found.items()} == {
        "cached, everything on: throughput": (0.5, False),
        "cached, everything on: added p50 at 1 connection": (1.5, True),
        "uncached, OPA on every request: throughput": (0.25, True),
        "per-call credentials: throughput": (0.4, True),
        "p99 (the worst of cached, uncached and per-call)": (4.0, False),
        "a worker with 100,000 cached decisions: RSS": (120.0, True),
        "two workers: requests per proxy CPU-second": (pytest.approx(0.8), False),
        "floor, scripted authorizer: throughput": (0.55, True),
        "floor, OPA on every request: throughput": (0.25, True),
    }


@pytest.mark.parametrize(
    ("side", "value", "met"),
    [
        ("at least", 2.0, True),
        ("at least", 1.9, False),
        ("at most", 2.0, True),
        ("at most", 2.1, False),
    ],
)
def test_a_target_is_met_on_its_side_of_the_bound(side: str, value: float, met: bool) -> None:
    assert Target(name="x", value=value, bound=2.0, side="at least" if side == "at least" else "at most").met is met


def test_a_target_is_written_with_its_name_its_value_its_bound_and_whether_it_is_met() -> None:
    assert Target(name="x", value=0.7, bound=0.6, aim=0.8).document() == {
        "name": "x",
        "value": 0.7,
        "target": 0.6,
        "met": True,
        "side": "at least",
        "unit": "× Envoy",
        "aim": 0.8,
    }
