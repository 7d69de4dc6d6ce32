"""How much time one person may be granted in a day (UTC). Grants that run at once count each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, TypeAlias

DAY: Final = 86_400

Interval: TypeAlias = tuple[int, int]
"""From the first second of a grant to its end, exclusive."""


def day_of(second: int) -> int:
    """The first second of the day."""
    return second - second % DAY


def exceeds(allowance: int, added: Interval, held: Iterable[Interval]) -> bool:
    """Whether more than `allowance` seconds would be granted in a day in which the added interval has a part."""
    spent = seconds_by_day([added, *held])
    return any(spent[day] > allowance for day in seconds_by_day([added]))


def seconds_by_day(intervals: Iterable[Interval]) -> Counter[int]:
    found: Counter[int] = Counter()
    for begins, ends in intervals:
        day = day_of(begins)
        while day < ends:
            found[day] += min(ends, day + DAY) - max(begins, day)
            day += DAY
    return found
