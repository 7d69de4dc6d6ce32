"""`make bench`: the targets, in under 45 seconds. Exit status 1 if one is missed. The method is in README.md."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

from benchmarks import report
from benchmarks.contestants import (
    EVERYTHING,
    PER_CALL,
    SCRIPTED,
    TWO_WORKERS,
    UNCACHED,
    Field,
    resident_with,
)
from benchmarks.deployment import deployed
from benchmarks.messages import get
from benchmarks.rounds import Contest, Entry, measure
from benchmarks.targets import KEPT_DECISIONS, reached
from benchmarks.traffic import traffic

ROUNDS = 5
SECONDS = 0.45
WARM_UP = 0.3


def main() -> int:
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ostiary-bench-")))
        ends = stack.enter_context(traffic())
        field = Field(deployed(place / "orders", upstream=ends.port), stack)
        direct, envoy = field.direct(), field.envoy()
        everything, uncached = field.ostiary(EVERYTHING), field.ostiary(UNCACHED, cached_decisions=0)
        two, scripted = field.ostiary(TWO_WORKERS, workers=2), field.rung(SCRIPTED, "scripted")
        resident = resident_with(field.memory(KEPT_DECISIONS), KEPT_DECISIONS)  # while those start, on the other core

        order = field.requests("order", get("/orders/42", field.token()))
        invoice = field.requests("invoice", get("/invoices/42", field.token()))
        many = [
            *(Entry(contestant=one, requests=order) for one in (envoy, everything, uncached)),
            Entry(name=PER_CALL, contestant=everything, requests=invoice),
            *(Entry(contestant=one, requests=order) for one in (scripted, two)),
        ]
        one = [Entry(contestant=one, requests=order) for one in (direct, envoy, everything)]
        outcomes = measure(
            [
                Contest(title="1 connection", connections=1, entries=one, seconds=SECONDS),
                Contest(title="32 connections", connections=32, entries=many, seconds=SECONDS),
            ],
            ends,
            rounds=ROUNDS,
            warm_up=WARM_UP,
        )
    report.show(outcomes)
    targets = reached(one=outcomes[0], many=outcomes[1], resident=resident)
    report.show_targets(targets)
    report.write(
        {"targets": [target.document() for target in targets], "rows": report.rows(outcomes)},
        kind="gate",
    )
    return 0 if all(target.met for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
