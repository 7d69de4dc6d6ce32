"""How much time is granted in a day, wherever grants begin and end."""

from __future__ import annotations

import pytest

from ostiary.grants.allowance import DAY, Interval, exceeds, seconds_by_day

MIDNIGHT = 1_789_948_800


def test_a_grant_over_midnight_is_of_both_days() -> None:
    assert seconds_by_day([(MIDNIGHT - 100, MIDNIGHT + 50)]) == {MIDNIGHT - DAY: 100, MIDNIGHT: 50}
    assert seconds_by_day([(MIDNIGHT, MIDNIGHT + DAY)]) == {MIDNIGHT: DAY}
    assert seconds_by_day([(MIDNIGHT - 1, MIDNIGHT + DAY + 1)]) == {
        MIDNIGHT - DAY: 1,
        MIDNIGHT: DAY,
        MIDNIGHT + DAY: 1,
    }


@pytest.mark.parametrize(
    ("held", "exceeded"),
    [
        ([], False),
        ([(MIDNIGHT + 500, MIDNIGHT + 550)], False),
        ([(MIDNIGHT + 500, MIDNIGHT + 551)], True),
        ([(MIDNIGHT, MIDNIGHT + 30), (MIDNIGHT, MIDNIGHT + 30)], True),
        ([(MIDNIGHT - 900, MIDNIGHT)], False),
        ([(MIDNIGHT + DAY, MIDNIGHT + DAY + 900)], False),
    ],
)
def test_what_is_held_in_the_same_day_counts(held: list[Interval], exceeded: bool) -> None:
    assert exceeds(100, (MIDNIGHT + 10, MIDNIGHT + 60), held) is exceeded
