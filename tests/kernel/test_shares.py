"""What one may have, and that it comes back."""

from __future__ import annotations

import pytest

from ostiary.shares import Bucket, Buckets, Places, half


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate() -> None:
    bucket = Bucket(rate=2, burst=3, now=100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(100.5) for _ in range(2)] == [True, False]
    assert [bucket.take(1e6) for _ in range(4)] == [True, True, True, False]


def test_what_is_owed_has_to_come_in_first() -> None:
    bucket = Bucket(rate=1, burst=1, now=0.0)
    for _ in range(3):
        bucket.charge(0.0)
    assert (bucket.left(1.0), bucket.take(2.0), bucket.take(3.0)) == (-1.0, False, True)


def test_a_bucket_without_a_rate_gives_its_burst_for_ever() -> None:
    bucket = Bucket(rate=0, burst=1, now=0.0)
    assert [bucket.take(now) for now in (0.0, 1e9)] == [True, False]


def test_each_key_has_a_bucket_and_those_used_last_are_kept() -> None:
    buckets: Buckets[str] = Buckets(rate=1, burst=1, capacity=2)
    assert buckets.known("a") is None
    assert [buckets.of(key, 0.0).take(0.0) for key in "aab"] == [True, False, True]
    buckets.of("a", 0.0)
    buckets.of("c", 0.0)
    assert (len(buckets), buckets.known("b")) == (2, None)
    assert buckets.of("a", 0.0).take(0.0) is False


def test_a_key_has_its_places_and_no_more_until_one_is_left() -> None:
    places: Places[str] = Places(2)
    assert [places.enter(key) for key in "aaab"] == [True, True, False, True]
    places.leave("a")
    assert [places.enter("a"), places.enter("a")] == [True, False]


def test_who_has_left_is_forgotten() -> None:
    places: Places[str] = Places(1)
    assert places.enter("a")
    places.leave("a")
    with pytest.raises(KeyError):
        places.leave("a")


@pytest.mark.parametrize(("places", "share"), [(1, 1), (2, 1), (3, 1), (4, 2), (256, 128)])
def test_half_is_one_at_least(places: int, share: int) -> None:
    assert half(places) == share
