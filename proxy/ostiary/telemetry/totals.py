"""What all workers counted, added up by the supervisor since it was started. Nothing here ever goes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from ostiary.telemetry.catalogue import (
    DECISION_SECONDS,
    LABEL_SETS,
    METRICS,
    OTHER,
    OVERFLOW,
    RECEIVED,
    REFUSALS,
    REQUEST_SECONDS,
    REQUESTS,
    SENT,
    USES,
    Family,
)
from ostiary.telemetry.tally import Counted, Ending, Labels, split_durations

Value: TypeAlias = float | list[float]
"""A number; of a histogram the counts of its buckets, the one for all that is longer, and the sum."""

Samples: TypeAlias = dict[Labels, Value]


class Totals:
    """Adds up. `capacity` is how many sets of labels a metric has at most."""

    def __init__(self, *, capacity: int = LABEL_SETS) -> None:
        self._capacity = capacity
        self._samples: dict[str, Samples] = {}
        # A counter without labels is there from the beginning, so that its first increment is seen as one.
        for family in METRICS.values():
            if family.kind == "counter" and not family.labels:
                self._samples[family.name] = {(): 0}

    def add(self, counted: Counted) -> None:
        for key, count in counted.endings.items():
            self._add_ending(key, count)
        for labels, times in counted.durations.items():
            histogram, received, sent = split_durations(times)
            self._add(REQUEST_SECONDS, labels, histogram)
            self._add(RECEIVED, labels[:1], received)
            self._add(SENT, labels[:1], sent)
        for kept, took in counted.deciding.items():
            self._add(DECISION_SECONDS, ("cache" if kept else "opa",), took)
        for (name, labels), grown in counted.facts.items():
            self._add(METRICS[name], labels, grown)

    def _add_ending(self, key: Ending, count: int) -> None:
        caller, service, endpoint, permission, status, reason = key
        whose = (_text(caller), _text(service), _text(endpoint))
        self._add(REQUESTS, (*whose, f"{status}xx" if status else "none"), count)
        if reason is not None:
            self._add(REFUSALS, (*whose, _text(reason)), count)
        if permission is not None:
            self._add(USES, (_text(permission),), count)

    def _add(self, family: Family, labels: Labels, grown: Value) -> None:
        samples = self._samples.setdefault(family.name, {})
        known = samples.get(labels)
        if known is None and len(samples) >= self._capacity:
            self._add(OVERFLOW, (family.name,), sum(grown[:-1]) if isinstance(grown, list) else grown)
            # The last label of a request says how it ended, and of those there are few.
            labels = (OTHER,) * (len(labels) - 1) + ((OTHER,) if len(labels) < 2 else labels[-1:])
            known = samples.get(labels)
        if isinstance(grown, list):
            samples[labels] = (
                [*grown] if not isinstance(known, list) else [a + b for a, b in zip(known, grown, strict=True)]
            )
        elif isinstance(known, list):
            raise TypeError(f"{family.name} is a histogram")
        else:
            samples[labels] = grown if known is None else known + grown

    @property
    def samples(self) -> Mapping[str, Mapping[Labels, Value]]:
        """By the name of the metric."""
        return self._samples


def _text(value: str | None) -> str:
    return "" if value is None else value
