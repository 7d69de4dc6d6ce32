"""What the load program prints is read exactly, and a round with a fault in it counts for nothing."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.traffic import Run, VoidRound, quantile

PRINTED: dict[str, Any] = {
    "requests": 3,
    "seconds": 1.5,
    "sent": 4,
    "statuses": {"200": 3, "204": 1},
    "errors": 0,
    "latencies_ns": {"1000": 1, "2000": 2},
}


def test_a_run_is_read_as_it_was_printed() -> None:
    assert Run.parse(PRINTED, load_cpu=0.5) == Run(
        requests=3, seconds=1.5, sent=4, latencies={1000: 1, 2000: 2}, load_cpu=0.5
    )


@pytest.mark.parametrize(
    "fault",
    [
        {"errors": 1},
        {"statuses": {"200": 3, "429": 1}},
        {"statuses": {"302": 4}},
        {"requests": 0, "latencies_ns": {}},
    ],
    ids=["an error", "a refusal", "a redirection", "no request"],
)
def test_a_round_with_a_fault_is_void(fault: dict[str, Any]) -> None:
    with pytest.raises(VoidRound):
        Run.parse(PRINTED | fault)


@pytest.mark.parametrize(
    ("q", "microseconds"),
    [(0.01, 1), (0.5, 1), (0.51, 2), (0.99, 99), (0.999, 1000), (1.0, 1000)],
)
def test_a_quantile_is_the_least_latency_that_such_a_share_stayed_within(q: float, microseconds: float) -> None:
    latencies = [{1_000: 50, 2_000: 30}, {2_000: 18, 99_000: 1}, {1_000_000: 1}]
    assert quantile(latencies, q) == microseconds


def test_there_is_no_quantile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no latency"):
        quantile([{}], 0.5)
