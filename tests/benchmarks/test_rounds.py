"""Ratios are taken within a round, and told as their median with the extremes beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.contestants import Contestant
from benchmarks.processes import Usage
from benchmarks.rounds import Contest, Entry, Outcome, Sample, Spread
from benchmarks.traffic import Run


def sample(*, per_second: int = 1000, p50_us: int = 100, cpu: float = 0.1, opa_cpu: float = 0.0) -> Sample:
    """Of one second, in which half of the requests took `p50_us` and the others twice as long."""
    half = per_second // 2
    latencies = {p50_us * 1000: half, p50_us * 2000: per_second - half}
    return Sample(
        run=Run(requests=per_second, seconds=1.0, sent=per_second, latencies=latencies, load_cpu=0.05),
        before=Usage(cpu=1.0, opa_cpu=2.0),
        after=Usage(cpu=1.0 + cpu, opa_cpu=2.0 + opa_cpu),
        until=0.0,
    )


def outcome(**samples: list[Sample]) -> Outcome:
    entries = [Entry(contestant=Contestant(name=name, port=1), requests=Path()) for name in samples]
    contest = Contest(title="one", connections=1, entries=entries, seconds=1, baseline="envoy")
    return Outcome(contest, dict(samples))


def test_a_sample_divides_what_was_used_in_its_round_by_the_requests_of_its_round() -> None:
    one = sample(per_second=2000, p50_us=100, cpu=0.2, opa_cpu=0.1)
    assert one.per_second == 2000
    assert one.p50 == 100
    assert one.p99 == 200
    assert one.cpu == pytest.approx(100)
    assert one.opa_cpu == pytest.approx(50)
    assert one.load_cpu == pytest.approx(25)
    assert one.of_a_cpu_second == pytest.approx(10_000)


def test_a_spread_is_the_median_and_the_extremes() -> None:
    assert Spread.of([3.0, 1.0, 10.0]) == Spread(median=3.0, least=1.0, greatest=10.0)


def test_ratios_are_of_the_same_round_so_that_a_machine_which_slows_down_changes_none() -> None:
    quick, slow = sample(per_second=1000), sample(per_second=500)
    found = outcome(
        envoy=[sample(per_second=2000), sample(per_second=1000)],
        proxy=[quick, slow],
    )
    assert found.ratio("proxy", lambda one: one.per_second) == Spread(median=0.5, least=0.5, greatest=0.5)


def test_a_ratio_can_be_to_another_than_the_baseline() -> None:
    found = outcome(envoy=[sample()], one=[sample(cpu=0.1)], two=[sample(cpu=0.125)])
    assert found.ratio("two", lambda one: one.of_a_cpu_second, to="one").median == pytest.approx(0.8)


def test_added_latency_is_what_is_above_the_direct_p50_on_both_sides() -> None:
    found = outcome(envoy=[sample(p50_us=250)], direct=[sample(p50_us=50)], proxy=[sample(p50_us=350)])
    assert found.added_latency("proxy", to="envoy", direct="direct").median == pytest.approx(1.5)


def test_a_far_quantile_is_taken_over_all_rounds_together() -> None:
    found = outcome(envoy=[sample(p50_us=10), sample(p50_us=1000)])
    assert found.quantile("envoy", 0.999) == 2000
    assert found.quantile("envoy", 0.25) == 10
