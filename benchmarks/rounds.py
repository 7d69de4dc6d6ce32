"""Measuring: contestants take turns, round after round, and are compared within a round.

What a shared machine does to a measurement changes from minute to minute, and less from second to second. So what is
told of a contestant is the median of its rounds, and of two contestants the median of the ratios that they had in each
round, with the least and the greatest beside it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

from benchmarks.contestants import Contestant, all_ready
from benchmarks.processes import ALL, Usage, busy_seconds, usage
from benchmarks.traffic import Run, Traffic, quantile


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The median of some rounds, and the extremes."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        found = sorted(values)
        return cls(median=statistics.median(found), least=found[0], greatest=found[-1])


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one contestant did in one round. `before` and `after` are what it had used by then.

    `until` is when the round ended, in Unix seconds. `others` is the share of the cores' time that whoever has no part
    in the run used meanwhile.
    """

    run: Run
    before: Usage
    after: Usage
    until: float
    others: float = 0.0

    @cached_property
    def per_second(self) -> float:
        return self.run.requests / self.run.seconds

    @cached_property
    def p50(self) -> float:
        """Microseconds, as all latencies."""
        return quantile([self.run.latencies], 0.5)

    @cached_property
    def p99(self) -> float:
        return quantile([self.run.latencies], 0.99)

    @property
    def cpu(self) -> float:
        """Microseconds of a request's CPU time outside OPA: Envoy's, or the proxy's with its supervisor."""
        return (self.after.cpu - self.before.cpu) / self.run.sent * 1e6

    @property
    def opa_cpu(self) -> float:
        return (self.after.opa_cpu - self.before.opa_cpu) / self.run.sent * 1e6

    @property
    def load_cpu(self) -> float:
        """Microseconds of a request's CPU time at both ends."""
        return self.run.load_cpu / self.run.sent * 1e6

    @property
    def of_a_cpu_second(self) -> float:
        """Requests for each second of CPU outside OPA."""
        return 1e6 / self.cpu


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Who is sent what."""

    contestant: Contestant
    requests: Path
    name: str = ""
    """How it is called in the results; as the contestant if left out."""

    @property
    def called(self) -> str:
        return self.name or self.contestant.name


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Entries that are compared with each other, and first with the one called `baseline`."""

    title: str
    connections: int
    entries: Sequence[Entry]
    seconds: float
    baseline: str = "plain Envoy"
    ramp: float = 0.1
    """Seconds at the beginning of each run that are not counted."""


@dataclass
class Outcome:
    """The samples of a contest by what the entry is called, a sample for each round."""

    contest: Contest
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def spread(self, name: str, value: Callable[[Sample], float]) -> Spread:
        return Spread.of(value(one) for one in self.samples[name])

    def others(self) -> Spread:
        """The share of the cores' time that others used, over all runs."""
        return Spread.of(one.others for samples in self.samples.values() for one in samples)

    def quantile(self, name: str, q: float) -> float:
        """Microseconds, over the requests of all rounds."""
        return quantile([one.run.latencies for one in self.samples[name]], q)

    def ratio(self, name: str, value: Callable[[Sample], float], *, to: str | None = None) -> Spread:
        """What `name` has of what another has, the baseline by default, in the same round."""
        others = self.samples[to or self.contest.baseline]
        return Spread.of(value(one) / value(other) for one, other in zip(self.samples[name], others, strict=True))

    def added_latency(self, name: str, *, to: str, direct: str) -> Spread:
        """How often what `to` adds to the direct p50 goes into what `name` adds to it."""
        return Spread.of(
            (one.p50 - floor.p50) / (other.p50 - floor.p50)
            for one, other, floor in zip(self.samples[name], self.samples[to], self.samples[direct], strict=True)
        )


def measure(contests: Iterable[Contest], ends: Traffic, *, rounds: int, warm_up: float) -> list[Outcome]:
    """Every entry warmed up for so many seconds, then so many rounds of all; every other one goes backwards."""
    outcomes = [Outcome(contest) for contest in contests]
    all_ready(entry.contestant for outcome in outcomes for entry in outcome.contest.entries)
    _warm(outcomes, ends, warm_up)
    for number in range(rounds):
        for outcome in outcomes:
            entries = outcome.contest.entries
            for entry in entries if number % 2 == 0 else reversed(entries):
                samples = outcome.samples.setdefault(entry.called, [])
                samples.append(_sample(entry, outcome.contest, ends, first=sum(one.run.sent for one in samples)))
    return outcomes


def _warm(outcomes: Iterable[Outcome], ends: Traffic, seconds: float) -> None:
    for entry, connections in {
        (entry.contestant.port, entry.requests): (entry, outcome.contest.connections)
        for outcome in outcomes
        for entry in outcome.contest.entries
    }.values():
        ends.run(entry.contestant.port, entry.requests, connections=connections, seconds=seconds, ramp=0)


def _sample(entry: Entry, contest: Contest, ends: Traffic, *, first: int) -> Sample:
    pid = entry.contestant.pid
    before = Usage() if pid is None else usage(pid)
    busy, began = busy_seconds(ALL), time.monotonic()
    run = ends.run(
        entry.contestant.port,
        entry.requests,
        connections=contest.connections,
        seconds=contest.seconds,
        ramp=contest.ramp,
        first=first,
    )
    took, busy = time.monotonic() - began, busy_seconds(ALL) - busy
    after = Usage() if pid is None else usage(pid)
    own = run.load_cpu + after.cpu - before.cpu + after.opa_cpu - before.opa_cpu
    others = max(0.0, busy - own) / (took * len(ALL))
    return Sample(run=run, before=before, after=after, until=time.time(), others=others)
