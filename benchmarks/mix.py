"""Many callers of many endpoints, some much more often than others: how often the decision cache has the answer.

1,000 callers and 100 services of 100 endpoints. Who calls what is drawn by Zipf's law, caller and endpoint apart from
each other, so most of the ten million pairs never occur. In the map every caller has exactly the permissions that it
uses, as one would with no standing privileges.
"""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from benchmarks.deployment import host_of
from benchmarks.messages import get
from benchmarks.rounds import Outcome, Sample, Spread
from ostiary.demo.issuer import ISSUER, DemoIssuer

CALLERS: Final = 1_000
SERVICES: Final = 100
ENDPOINTS: Final = 100
"""Of each service."""
DRAWS: Final = 100_000
SEED: Final = 20_260_101
LIFE: Final = 5
"""Seconds for which a decision of this map may be used again."""


def zipf_pairs(callers: int, endpoints: int, draws: int, *, exponent: float = 1.0) -> list[tuple[int, int]]:
    """So many draws of (caller, endpoint), the same in every run.

    Number n of each is drawn in proportion to 1 / (n + 1) ** exponent.
    """
    dice = random.Random(SEED)  # noqa: S311 - a load, no secret
    return list(
        zip(_zipf(dice, callers, draws, exponent), _zipf(dice, endpoints, draws, exponent), strict=True),
    )


def _zipf(dice: random.Random, population: int, draws: int, exponent: float) -> list[int]:
    weights = list(accumulate(1 / (n + 1) ** exponent for n in range(population)))
    return dice.choices(range(population), cum_weights=weights, k=draws)


@dataclass(frozen=True, kw_only=True)
class Mix:
    """`pairs` is what is sent, in order; it begins again after the last."""

    pairs: Sequence[tuple[int, int]]

    def permissions(self) -> dict[str, Any]:
        endpoints = {f"endpoint-{n}": f"GET /items{n}/{{item_id}}" for n in range(ENDPOINTS)}
        used: dict[tuple[int, int], list[str]] = defaultdict(list)
        for caller, number in sorted(set(self.pairs)):
            used[caller, number // ENDPOINTS].append(f"endpoint-{number % ENDPOINTS}")
        return {
            "services": {f"service-{n}": {"endpoints": endpoints} for n in range(SERVICES)},
            "callers": {f"caller-{n}": {"issuer": ISSUER, "subject": f"subject-{n}"} for n in range(CALLERS)},
            "permissions": [
                {"caller": f"caller-{caller}", "service": f"service-{service}", "endpoints": names}
                for (caller, service), names in used.items()
            ],
        }

    def requests(self, issuer: DemoIssuer) -> bytes:
        tokens = [issuer.token(f"subject-{n}") for n in range(CALLERS)]
        return b"".join(
            get(f"/items{number % ENDPOINTS}/42", tokens[caller], host=host_of(f"service-{number // ENDPOINTS}"))
            for caller, number in self.pairs
        )


def zipf_mix() -> Mix:
    return Mix(pairs=zipf_pairs(CALLERS, SERVICES * ENDPOINTS, DRAWS))


# what the audit says of it


@dataclass(frozen=True, kw_only=True)
class Decided:
    """A `decision` line: when (Unix seconds), about whom and what, and whether it was cached."""

    at: float
    about: tuple[str, str, str]
    cached: bool


@dataclass(frozen=True, kw_only=True)
class Hits:
    """Which share of the requests was answered from the cache, and which share a cache that is never full would have
    answered, with the same requests and the same life of a decision."""

    requests: int
    ratio: float
    possible: float

    @classmethod
    def between(cls, begin: float, end: float, decided: Iterable[Decided]) -> Hits:
        """Of the requests in these seconds, by all that were decided, in order."""
        ends: dict[tuple[str, str, str], int] = {}
        requests = cached = possible = 0
        for one in decided:
            second = math.floor(one.at)
            kept = second < ends.get(one.about, second)
            if not kept:
                ends[one.about] = second + LIFE
            if begin <= one.at <= end:
                requests += 1
                cached += one.cached
                possible += kept
        if not requests:
            raise ValueError("no decision in the audit of these seconds")
        return cls(requests=requests, ratio=cached / requests, possible=possible / requests)


def hits(outcome: Outcome, name: str, audit: Path) -> dict[str, Any]:
    """In the seconds that were counted."""
    decided = sorted(read_decisions(audit), key=lambda one: one.at)
    rounds = [Hits.between(*_window(sample), decided) for sample in outcome.samples[name]]
    return {
        "requests": [one.requests for one in rounds],
        "hit_ratio": asdict(Spread.of(one.ratio for one in rounds)),
        "possible": asdict(Spread.of(one.possible for one in rounds)),
    }


def _window(sample: Sample) -> tuple[float, float]:
    return sample.until - sample.run.seconds, sample.until


def read_decisions(audit: Path) -> Iterator[Decided]:
    for file in sorted(audit.glob("audit-*.ndjson")):
        with file.open(encoding="ascii") as lines:
            yield from parse_decisions(lines)


def parse_decisions(lines: Iterable[str]) -> Iterator[Decided]:
    """The `decision` lines among those of an audit. One that was cut off, the last, is left out."""
    for line in lines:
        if not line.startswith('{"schema":1,"kind":"decision"') or not line.endswith("\n"):
            continue
        document: Mapping[str, Any] = json.loads(line)
        yield Decided(
            at=datetime.fromisoformat(document["time"]).timestamp(),
            about=(document["identity"]["subject"], document["service"], document["endpoint"]),
            cached=document["cached"],
        )
