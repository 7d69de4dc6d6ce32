"""How old a policy may be before an allow of it is believed no longer."""

from __future__ import annotations

from ostiary.decision.query import Freshness
from ostiary.errors import PolicyStale


class StalenessLimit:
    """`most` is the age in seconds up to which a bundle is trusted, `freshness` knows how old each one is."""

    def __init__(self, *, freshness: Freshness, most: float) -> None:
        if not most > 0:
            raise ValueError("a policy is trusted for a number of seconds above 0")
        self._freshness = freshness
        self._most = most

    def remaining(self, revision: str) -> float:
        """Seconds for which the bundle will still be trusted, if nobody confirms it again; below 0 it is too old."""
        return self._most - self._freshness.age(revision)

    def check(self, revision: str) -> None:
        """Raise `PolicyStale` unless the bundle is trusted now."""
        age = self._freshness.age(revision)
        if not age <= self._most:  # so that an age which is not a number is too old
            raise PolicyStale(f"the bundle {revision} was last known to be current {age:.0f} s ago")
