"""The results: as lines for people, as a document for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks.processes import BUILD
from benchmarks.rounds import Entry, Outcome, Sample, Spread
from benchmarks.targets import Target

RESULT: Final = BUILD / "bench.json"
QUIET: Final = 0.1
"""Of the cores' time: what others may use while something is measured."""


def rows(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """A row for each entry of each contest. Times in microseconds, memory in bytes."""
    return [_row(outcome, entry) for outcome in outcomes for entry in outcome.contest.entries]


def _row(outcome: Outcome, entry: Entry) -> dict[str, Any]:
    name = entry.called
    samples = outcome.samples[name]

    def spread(value: str) -> dict[str, float]:
        return asdict(outcome.spread(name, lambda one: _value(one, value)))

    def ratio(value: str) -> dict[str, float]:
        return asdict(outcome.ratio(name, lambda one: _value(one, value)))

    nothing = entry.contestant.pid is None
    return {
        "contest": outcome.contest.title,
        "name": name,
        "connections": outcome.contest.connections,
        "rounds": len(samples),
        "per_second": spread("per_second"),
        "p50_us": spread("p50"),
        "p99_us": spread("p99"),
        "p999_us": outcome.quantile(name, 0.999),
        "cpu_us": None if nothing else spread("cpu"),
        "opa_cpu_us": None if nothing else spread("opa_cpu"),
        "load_cpu_us": spread("load_cpu"),
        "others": spread("others"),
        "resident_bytes": max(one.after.resident for one in samples),
        "opa_resident_bytes": max(one.after.opa_resident for one in samples),
        "of_baseline": {
            "name": outcome.contest.baseline,
            "throughput": ratio("per_second"),
            "p50": ratio("p50"),
            "p99": ratio("p99"),
            "cpu": None if nothing else ratio("cpu"),
        },
    }


def _value(sample: Sample, name: str) -> float:
    value: float = getattr(sample, name)
    return value


# the document


def write(result: Mapping[str, Any], *, kind: Literal["gate", "full"]) -> dict[str, Any]:
    """Put it into `RESULT`, with what it was measured on, and return it so."""
    document = {
        **result,
        "kind": kind,
        "machine": machine(),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document


def earlier(*, kind: str) -> dict[str, Any]:
    """What is there of that kind, or nothing."""
    try:
        found: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if found.get("kind") == kind else {}


def machine() -> dict[str, Any]:
    """What is measured on."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


# for people


def show(outcomes: Iterable[Outcome]) -> None:
    for outcome in outcomes:
        baseline = outcome.contest.baseline
        print(f"\n{outcome.contest.title}")
        print(
            f"  {'':24}{'req/s':>8}  {'× ' + baseline:<20}{'p50 µs':>8}{'p99':>8}{'p99.9':>8}"
            f"{'CPU µs':>8}{'OPA':>6}{'load':>6}{'RSS MB':>8}{'OPA':>5}"
        )
        for row in rows([outcome]):
            print("  " + _line(row))
        if (others := outcome.others()).median > QUIET:
            print(f"  Others used {text(others)} of the cores meanwhile: these numbers are not to be believed.")


def _line(row: Mapping[str, Any]) -> str:
    ratio = row["of_baseline"]["throughput"]
    compared = f"{ratio['median']:.2f} ({ratio['least']:.2f} – {ratio['greatest']:.2f})"
    nothing = row["cpu_us"] is None
    return (
        f"{row['name']:24}{row['per_second']['median']:8.0f}  {compared:<20}"
        f"{row['p50_us']['median']:8.0f}{row['p99_us']['median']:8.0f}{row['p999_us']:8.0f}"
        f"{_number(None if nothing else row['cpu_us']['median'], 8)}"
        f"{_number(None if nothing else row['opa_cpu_us']['median'], 6)}"
        f"{row['load_cpu_us']['median']:6.0f}"
        f"{_number(row['resident_bytes'] / 1e6, 8)}{_number(row['opa_resident_bytes'] / 1e6, 5)}"
    )


def _number(value: float | None, width: int) -> str:
    """A zero is left out: there is nothing to tell."""
    return f"{value:{width}.0f}" if value else " " * width


def show_targets(targets: Iterable[Target]) -> None:
    print()
    for target in targets:
        word = "met   " if target.met else "MISSED"
        value = f"{target.value:.2f} {target.unit}"
        aim = "" if target.aim is None else f", aim {target.aim:g}"
        print(f"{word}  {target.name}: {value} ({target.side} {target.bound:g}{aim})")


def text(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.least:.2f} – {spread.greatest:.2f})"
