"""What a worker counts while it serves. There are no locks: one event loop counts, and the same one hands over.

A worker keeps what came since it was asked last, and hands that over whole (`take`): the supervisor adds it up
(`totals`). So a worker that ends takes nothing away that was told before, no counter ever goes back, and what a worker
holds is bounded by what happens between two questions. What one that is killed had not told yet is lost.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from ostiary.errors import AccessError
from ostiary.exchange import Exchange
from ostiary.models import Decision, Target
from ostiary.telemetry.catalogue import (
    DECISION_SECONDS,
    LABEL_SETS,
    OTHER,
    OVERFLOW,
    REQUEST_SECONDS,
    REQUESTS,
)

Labels: TypeAlias = tuple[str, ...]

FORWARDED: Final = "forwarded"
REFUSED: Final = "refused"
ANSWERED: Final = "answered"

GRANTED: Final = "grant"
"""Stands for whatever grant allowed a request: there is another one each time, and who has them is in the audit."""

_REQUEST_BOUNDS: Final = REQUEST_SECONDS.buckets
_DECISION_BOUNDS: Final = DECISION_SECONDS.buckets
_SECONDS: Final = len(_REQUEST_BOUNDS) + 1
_RECEIVED: Final = _SECONDS + 1
_SENT: Final = _SECONDS + 2
_DECIDING: Final = len(_DECISION_BOUNDS) + 1


Ending: TypeAlias = tuple[str | None, str | None, str | None, str | None, int, str | None]
"""How requests ended that are counted together: caller, service, endpoint; the permission that allowed them, or
`GRANTED`; the class of their status, 2 for all of 200 to 299 and 0 for none; why they were refused or broken off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What was counted since the last time. Travels by pickle.

    `durations` are, by service and outcome, the counts of each bucket, the sum in seconds, bytes received and sent;
    `deciding`, by whether the decision was kept, the counts of each bucket and the sum. `facts` are increments by
    metric and labels.
    """

    endings: Mapping[Ending, int] = field(default_factory=dict)
    durations: Mapping[Labels, list[float]] = field(default_factory=dict)
    deciding: Mapping[bool, list[float]] = field(default_factory=dict)
    facts: Mapping[tuple[str, Labels], float] = field(default_factory=dict)


class Tally:
    """Counts the requests of one worker. `capacity` is how many kinds of ending are told apart between two takings."""

    def __init__(self, *, capacity: int = LABEL_SETS) -> None:
        self._capacity = capacity
        self._seen: dict[tuple[str, Labels], float] = {}
        self._overflowed = 0
        self._begin()

    def _begin(self) -> None:
        self._endings: dict[Ending, int] = {}
        self._forwarded: dict[str, list[float]] = {}
        self._durations: dict[Labels, list[float]] = {}
        self._asked = [0.0] * (_DECIDING + 1)
        self._kept = [0.0] * (_DECIDING + 1)

    def completed(
        self,
        exchange: Exchange,
        target: Target | None,
        decision: Decision | None,
        refusal: AccessError | None,
        outcome: str | None,
        deciding: float,
        seconds: float,
    ) -> None:
        """An exchange has ended. `outcome` is what the audit calls it where it was broken off; `deciding` and `seconds`
        are what the decision and all of it took."""
        status = exchange.status
        hundreds = 0 if status is None else status // 100
        if decision is None:
            service = None if target is None else target.service
            reason = outcome if refusal is None else refusal.reason
            self._count((None, service, None, None, hundreds, reason))
            self._time(service or "", ANSWERED if reason is None else REFUSED, exchange, seconds)
            return
        bucket = bisect_left(_DECISION_BOUNDS, deciding)
        took = self._kept if decision.cached else self._asked
        took[bucket] += 1
        took[_DECIDING] += deciding
        if refusal is None and outcome is None:
            key = (
                decision.caller,
                decision.service,
                decision.endpoint,
                decision.permission or (None if decision.grant is None else GRANTED),
                hundreds,
                None,
            )
            count = self._endings.get(key)
            if count is None:
                self._count(key)
            else:
                self._endings[key] = count + 1
            times = self._forwarded.get(decision.service)  # type: ignore[arg-type]
            if times is None:
                times = self._forwarded[decision.service or ""] = _no_time()
            times[bisect_left(_REQUEST_BOUNDS, seconds)] += 1
            times[_SECONDS] += seconds
            times[_RECEIVED] += exchange.bytes_received
            times[_SENT] += exchange.bytes_sent
            return
        # Refused by the policy, or let through by it and broken off afterwards.
        service = decision.service if target is None else target.service
        allowed_by = None
        if decision.allow is True:
            allowed_by = decision.permission or (None if decision.grant is None else GRANTED)
        reason = outcome if refusal is None else refusal.reason
        self._count((decision.caller, service, decision.endpoint, allowed_by, hundreds, reason))
        self._time(service or "", REFUSED, exchange, seconds)

    def refused(self, refusal: AccessError) -> None:
        """The listener refused what never became an exchange."""
        self._count((None, None, None, None, refusal.status // 100, refusal.reason))

    def _count(self, key: Ending) -> None:
        count = self._endings.get(key)
        if count is None and len(self._endings) >= self._capacity:
            # Whose it was is given up, not how it ended: of statuses and reasons there are few.
            key = (OTHER, OTHER, OTHER, None if key[3] is None else OTHER, *key[4:])
            count = self._endings.get(key)
            self._overflowed += 1
        self._endings[key] = 1 if count is None else count + 1

    def _time(self, service: str, outcome: str, exchange: Exchange, seconds: float) -> None:
        labels = (service, outcome)
        times = self._durations.get(labels)
        if times is None:
            times = self._durations[labels] = _no_time()
        times[bisect_left(_REQUEST_BOUNDS, seconds)] += 1
        times[_SECONDS] += seconds
        times[_RECEIVED] += exchange.bytes_received
        times[_SENT] += exchange.bytes_sent

    def take(self, facts: Mapping[tuple[str, Labels], float] | None = None) -> Counted:
        """What was counted since the last taking, which begins anew. `facts` are counts since the start of what others
        count, by metric and labels: of those, too, the increments are taken."""
        durations = dict(self._durations)
        durations.update({(service, FORWARDED): each for service, each in self._forwarded.items()})
        counted = Counted(
            endings=self._endings,
            durations=durations,
            deciding={True: self._kept, False: self._asked},
            facts=self._increments(facts or {}),
        )
        self._begin()
        return counted

    def _increments(self, facts: Mapping[tuple[str, Labels], float]) -> dict[tuple[str, Labels], float]:
        facts = {**facts, (OVERFLOW.name, (REQUESTS.name,)): self._overflowed}
        seen = self._seen
        # What is still 0 is told once, so that the first increment is seen as one.
        found = {key: value - seen.get(key, 0) for key, value in facts.items() if value != seen.get(key)}
        seen.update(facts)
        return found


def _no_time() -> list[float]:
    return [0.0] * (_SENT + 1)


def split_durations(times: list[float]) -> tuple[list[float], float, float]:
    """The histogram (counts of the buckets, then the sum), bytes received, bytes sent."""
    return times[: _SECONDS + 1], times[_RECEIVED], times[_SENT]
