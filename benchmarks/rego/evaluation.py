"""What a decision takes in OPA on a large map, beside one ground look-up."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.targets import Target

ROUNDS: Final = 6
BASE: Final = "one ground look-up"

TARGETS: Final[Mapping[str, float]] = {
    "a standing permission": 4,
    "source and hours": 12,
    "a caller known by a group": 12,
    "**": 12,
    "denied: no permission": 15,
    "denied: unknown caller": 15,
    "denied: unknown endpoint": 15,
    "denied: wrong source": 15,
}
"""At most so many times what a ground look-up takes."""

Costs = Mapping[str, tuple[float, float]]
"""Name to nanoseconds and allocations of one evaluation."""


def measure(opa: Path, bundle: Path, place: Path, questions: Mapping[str, tuple[str, dict[str, Any]]]) -> Costs:
    """By turns, round after round. The best of the rounds: whatever else the machine does only ever adds."""
    best: dict[str, tuple[float, float]] = {}
    file = place / "input.json"
    for _ in range(ROUNDS):
        for name, (query, document) in questions.items():
            file.write_text(json.dumps(document), encoding="utf-8")
            command: list[str | Path] = [opa, "bench", "--bundle", bundle, "--input", file, "--format", "json"]
            done = subprocess.run([*command, "--metrics=false", query], check=True, capture_output=True, text=True)
            found = json.loads(done.stdout)
            took = found["T"] / found["N"], found["MemAllocs"] / found["N"]
            best[name] = min(best.get(name, took), took)
    return best


def rows(costs: Costs) -> list[dict[str, Any]]:
    base, _ = costs[BASE]
    return [
        {"name": name, "ns": ns, "allocations": allocations, "of_look_up": ns / base}
        for name, (ns, allocations) in costs.items()
    ]


def targets(costs: Costs) -> list[Target]:
    base, _ = costs[BASE]
    return [
        Target(name=name, value=costs[name][0] / base, bound=most, side="at most", unit="× a look-up")
        for name, most in TARGETS.items()
    ]


def show(costs: Costs) -> None:
    print(f"\n{'':30}{'µs':>8}{'allocations':>13}{'of a look-up':>14}")
    for row in rows(costs):
        print(f"{row['name']:30}{row['ns'] / 1000:8.0f}{row['allocations']:13.0f}{row['of_look_up']:14.1f}")
