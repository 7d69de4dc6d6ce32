"""What the Rego bench makes of what it measured."""

from __future__ import annotations

import pytest

from benchmarks.rego import batch, evaluation, memory, sizes
from benchmarks.rego.memory import ACTIVATED, DECIDING, FETCHING, MANAGED, START, Weight, is_settled
from benchmarks.rego.report import Part, merged
from benchmarks.rego.sizes import Size
from benchmarks.rounds import Spread
from benchmarks.targets import Target


def same(value: float) -> dict[str, float]:
    return {"median": value, "least": value, "greatest": value}


def test_an_evaluation_is_told_beside_the_look_up() -> None:
    costs = {evaluation.BASE: (10_000.0, 60.0), **dict.fromkeys(evaluation.TARGETS, (40_000.0, 200.0))}
    assert evaluation.rows(costs)[1] == {
        "name": "a standing permission",
        "ns": 40_000.0,
        "allocations": 200.0,
        "of_look_up": 4.0,
    }
    found = {target.name: (target.value, target.met) for target in evaluation.targets(costs)}
    assert found == dict.fromkeys(evaluation.TARGETS, (4.0, True))


@pytest.mark.parametrize(
    ("readings", "settled"),
    [
        ([], False),
        ([1000, 1000, 1000, 1000], False),
        ([900, 1000, 1001, 1002, 1003, 1004], True),
        ([1000, 1000, 1000, 1000, 1020], False),
        ([1000, 1020, 1020, 1020, 1020], False),
    ],
)
def test_memory_is_settled_once_five_readings_are_within_a_hundredth(readings: list[int], settled: bool) -> None:
    assert is_settled(readings) is settled


def weights() -> list[Weight]:
    """A tiny map's OPA has 40 MB at any stage; that with 100,000 permissions more has what stands here."""
    large = {
        (MANAGED, START): 70,
        (MANAGED, ACTIVATED): 75,
        (MANAGED, DECIDING): 100,
        (FETCHING, START): 80,
        (FETCHING, ACTIVATED): 130,
        (FETCHING, DECIDING): 140,
    }
    return [
        Weight(kind=kind, stage=stage, permissions=permissions, resident=Spread.of([megabytes * 1_000_000]))
        for (kind, stage), much in large.items()
        for permissions, megabytes in ((100, 40), (100_100, much))
    ]


def test_a_permissions_memory_is_what_the_large_map_has_more_by_the_permissions_that_it_has_more() -> None:
    assert memory.rows(weights())[0] == {
        "opa": MANAGED,
        "stage": START,
        "permissions": 100_100,
        "resident_bytes": same(70_000_000),
        "tiny_permissions": 100,
        "tiny_resident_bytes": same(40_000_000),
        "per_permission_bytes": 300.0,
    }


def test_memory_has_a_target_at_start_and_one_for_each_way_to_activate_bundles() -> None:
    assert [(target.name, target.value, target.bound, target.met) for target in memory.targets(weights())] == [
        ("memory, managed OPA, at start", 300.0, 400, True),
        ("memory, managed OPA, after 5 activations", 350.0, 800, True),
        ("memory, one OPA that fetches bundles, after 5 activations", 900.0, 800, False),
    ]


def test_a_batch_is_compared_with_the_single_questions_of_its_round() -> None:
    found = {batch.PLAIN: [batch.Round(single=200.0, batch=100.0), batch.Round(single=400.0, batch=100.0)]}
    assert batch.rows(found) == [
        {
            "requests": "standing permissions",
            "together": 32,
            "rounds": 2,
            "single_us": {"median": 300.0, "least": 200.0, "greatest": 400.0},
            "batch_us": same(100.0),
            "of_single": {"median": 0.375, "least": 0.25, "greatest": 0.5},
        }
    ]
    (target,) = batch.targets({**found, "others": [batch.Round(single=1.0, batch=1.0)]})
    assert (target.value, target.bound, target.side, target.met) == (0.375, 0.5, "at most", True)


def test_a_size_is_told_without_what_an_opa_with_a_tiny_map_has() -> None:
    def size(permissions: int, resident: int) -> Size:
        return Size(
            services=1,
            endpoints=10,
            permissions=permissions,
            source=2_000,
            data=1_000,
            compiling=0.5,
            loading=0.25,
            resident=resident,
        )

    assert sizes.rows([size(100, 40_000_000), size(1_100, 41_000_000)]) == [
        {
            "permissions": 1_100,
            "services": 1,
            "endpoints_each": 10,
            "source_bytes": 2_000,
            "data_bytes": 1_000,
            "compile_seconds": 0.5,
            "load_seconds": 0.25,
            "resident_bytes": 41_000_000,
            "tiny_resident_bytes": 40_000_000,
            "per_permission_bytes": 1_000.0,
        }
    ]


def test_a_part_takes_the_place_of_what_it_found_earlier_and_leaves_the_others() -> None:
    def target(name: str, value: float) -> Target:
        return Target(name=name, value=value, bound=1, side="at most", unit="s")

    document = merged({}, Part(name="memory", members={"memory": [1]}, targets=[target("old", 2), target("m", 2)]))
    document = merged(document, Part(name="batch", members={"batch": [2]}, targets=[target("b", 0.5)]))
    document = merged(document, Part(name="memory", members={"memory": [3]}, targets=[target("m", 1)]))
    rest = {"side": "at most", "unit": "s", "aim": None}
    assert document == {
        "memory": [3],
        "batch": [2],
        "targets": [
            {"part": "batch", "name": "b", "value": 0.5, "target": 1, "met": True, **rest},
            {"part": "memory", "name": "m", "value": 1, "target": 1, "met": True, **rest},
        ],
    }
