"""`make bench-full`: the whole picture, section by section. The method is in README.md.

    python -m benchmarks.full [SECTION …]

Without a section all of them are measured. With some, what an earlier run has found of the others is kept.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeAlias

from benchmarks import plot, report
from benchmarks.contestants import (
    EVERYTHING,
    PER_CALL,
    SCRIPTED,
    TWO_WORKERS,
    TWO_WORKERS_UNCACHED,
    UNCACHED,
    Contestant,
    Field,
    resident_with,
)
from benchmarks.deployment import deployed
from benchmarks.messages import get, post
from benchmarks.mix import hits, zipf_mix
from benchmarks.rego import parts as rego
from benchmarks.rego.report import write as write_rego
from benchmarks.rounds import Contest, Entry, Outcome, Sample, measure
from benchmarks.rung import RUNGS
from benchmarks.targets import KEPT_DECISIONS, reached
from benchmarks.traffic import Traffic, traffic

ROUNDS: Final = 5
SECONDS: Final = 0.7
WARM_UP: Final = 0.5
CONNECTIONS: Final = (1, 32, 256)
BODIES: Final = {"no": 0, "1 kB": 1_000, "1 MB": 1_000_000}

Found: TypeAlias = dict[str, Any]
"""What a section adds to the result."""


class Bench:
    """The contestants that sections share, each started when the first section needs it."""

    def __init__(self, place: Path, ends: Traffic, stack: contextlib.ExitStack) -> None:
        self.place = place
        self.ends = ends
        self._stack = stack
        self.field = Field(deployed(place / "orders", upstream=ends.port), stack)
        self.order = self.field.requests("order", get("/orders/42", self.field.token()))
        self.invoice = self.field.requests("invoice", get("/invoices/42", self.field.token()))

    @cached_property
    def direct(self) -> Contestant:
        return self.field.direct()

    @cached_property
    def envoy(self) -> Contestant:
        return self.field.envoy()

    @cached_property
    def rungs(self) -> list[Contestant]:
        return [self.field.rung(rung if rung == RUNGS[0] else f"+ {rung}", rung) for rung in RUNGS[:-1]]

    @cached_property
    def everything(self) -> Contestant:
        return self.field.ostiary(EVERYTHING)

    @cached_property
    def uncached(self) -> Contestant:
        return self.field.ostiary(UNCACHED, cached_decisions=0)

    @cached_property
    def scripted(self) -> Contestant:
        return self.field.rung(SCRIPTED, "scripted")

    @cached_property
    def two(self) -> Contestant:
        return self.field.ostiary(TWO_WORKERS, workers=2)

    @cached_property
    def two_uncached(self) -> Contestant:
        return self.field.ostiary(TWO_WORKERS_UNCACHED, workers=2, cached_decisions=0)

    def another(self, place: str, permissions: Mapping[str, Any]) -> Field:
        """Contestants that decide on another map."""
        return Field(deployed(self.place / place, upstream=self.ends.port, permissions=permissions), self._stack)

    def measured(self, contests: Sequence[Contest], *, rounds: int = ROUNDS, warm_up: float = WARM_UP) -> list[Outcome]:
        outcomes = measure(contests, self.ends, rounds=rounds, warm_up=warm_up)
        report.show(outcomes)
        return outcomes


def ladder(bench: Bench) -> Found:
    """Stage by stage, at several numbers of connections; and the targets."""
    resident = resident_with(bench.field.memory(KEPT_DECISIONS), KEPT_DECISIONS)
    ladder = [bench.direct, bench.envoy, *bench.rungs, bench.everything, bench.uncached]
    entries = [
        *(Entry(contestant=one, requests=bench.order) for one in ladder),
        Entry(name=PER_CALL, contestant=bench.everything, requests=bench.invoice),
        *(Entry(contestant=one, requests=bench.order) for one in (bench.scripted, bench.two)),
    ]
    outcomes = bench.measured(
        [
            Contest(title=f"ladder, {_connections(count)}", connections=count, entries=entries, seconds=SECONDS)
            for count in CONNECTIONS
        ]
    )
    targets = reached(one=outcomes[CONNECTIONS.index(1)], many=outcomes[CONNECTIONS.index(32)], resident=resident)
    report.show_targets(targets)
    return {
        "targets": [target.document() for target in targets],
        "ladder": report.rows(outcomes),
        "memory": {"cached_decisions": KEPT_DECISIONS, "resident_bytes": resident},
    }


def workers(bench: Bench) -> Found:
    """Proxy and OPA on one core, then two workers and their OPA on both, where the load is too."""
    contestants = [bench.envoy, bench.everything, bench.two, bench.uncached, bench.two_uncached]
    entries = [Entry(contestant=one, requests=bench.order) for one in contestants]
    outcomes = bench.measured(
        [
            Contest(title=f"workers, {_connections(count)}", connections=count, entries=entries, seconds=SECONDS)
            for count in CONNECTIONS[1:]
        ]
    )
    found = []
    for outcome in outcomes:
        for two, one in ((TWO_WORKERS, EVERYTHING), (TWO_WORKERS_UNCACHED, UNCACHED)):
            ratio = outcome.ratio(two, _of_a_cpu_second, to=one)
            print(f"{outcome.contest.title}: {two}: requests per proxy CPU-second {report.text(ratio)} × {one}")
            found.append(
                {"name": two, "of": one, "connections": outcome.contest.connections, "of_a_cpu_second": asdict(ratio)}
            )
    return {"workers": report.rows(outcomes), "two_workers": found}


def bodies(bench: Bench) -> Found:
    """Bodies of three sizes, of responses and of requests."""
    token = bench.field.token()
    contests = []
    for kind, make in (("response", _body_back), ("request", _body_there)):
        for name, size in BODIES.items():
            requests = bench.field.requests(f"{kind}-{size}", make(token, size))
            entries = [
                Entry(contestant=one, requests=requests) for one in (bench.direct, bench.envoy, bench.everything)
            ]
            title = f"{name} {kind} body, 32 connections"
            contests.append(Contest(title=title, connections=32, entries=entries, seconds=SECONDS))
    return {"bodies": report.rows(bench.measured(contests, rounds=3))}


def _body_back(token: str, size: int) -> bytes:
    return get(f"/bodies/{size}", token)


def _body_there(token: str, size: int) -> bytes:
    return post("/orders", token, size)


def mix(bench: Bench) -> Found:
    """Many callers of many endpoints by Zipf's law, and how often the cache has the answer."""
    chosen = zipf_mix()
    field = bench.another("mix", chosen.permissions())
    envoy, everything = field.envoy(), field.ostiary(EVERYTHING)
    requests = field.requests("mix", chosen.requests(field.issuer))
    # Decisions live for five seconds at most: what is counted begins when the first of them have ended.
    contest = Contest(
        title="Zipf mix, 32 connections",
        connections=32,
        entries=[Entry(contestant=one, requests=requests) for one in (envoy, everything)],
        seconds=4,
        ramp=6,
    )
    outcomes = bench.measured([contest], rounds=2, warm_up=0.5)
    found = hits(outcomes[0], EVERYTHING, everything.audit)
    print(
        f"hit ratio {found['hit_ratio']['median']:.3f} of {found['requests']} requests;"
        f" a cache that is never full: {found['possible']['median']:.3f}"
    )
    return {"mix": report.rows(outcomes), "hits": found}


def maps(bench: Bench) -> Found:
    """Maps from a thousand to a million permissions, by the Rego bench."""
    place = bench.place / "maps"
    place.mkdir()
    part = rego.grow(rego.Bench(place))
    write_rego(part)
    return {"maps": part.members["sizes"]}


SECTIONS: Final[Mapping[str, Callable[[Bench], Found]]] = {
    "ladder": ladder,
    "workers": workers,
    "bodies": bodies,
    "mix": mix,
    "maps": maps,
}


def _connections(count: int) -> str:
    return "1 connection" if count == 1 else f"{count} connections"


def _of_a_cpu_second(sample: Sample) -> float:
    return sample.of_a_cpu_second


def main(sections: Sequence[str]) -> int:
    unknown = [name for name in sections if name not in SECTIONS]
    if unknown:
        raise SystemExit(f"no section {', '.join(unknown)}: there are {', '.join(SECTIONS)}")
    result = report.earlier(kind="full")
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ostiary-bench-")))
        bench = Bench(place, stack.enter_context(traffic()), stack)
        for name in sections or SECTIONS:
            result = report.write(result | SECTIONS[name](bench), kind="full")
    plot.draw(result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
