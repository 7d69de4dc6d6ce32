"""What is fuzzed: where cases come from, and what is demanded of each."""

from __future__ import annotations

import random
from collections.abc import Hashable
from typing import Protocol


class FindingError(AssertionError):
    """A promise that a case broke."""


def demand(holds: object, promise: str, *shown: object) -> None:
    """Raise `FindingError` unless it holds."""
    if not holds:
        raise FindingError(": ".join([promise, *map(repr, shown)]))


class Target(Protocol):
    """Something that takes bytes: cases can be kept, mutated and shrunk by who knows no more of them."""

    name: str
    share: float
    """Of all cases that are run."""

    words: tuple[bytes, ...]
    """What mutation puts in, besides what it finds."""

    def make(self, rng: random.Random) -> bytes:
        """A fresh case, near to what is valid."""

    def check(self, case: bytes) -> Hashable:
        """Raise `FindingError`, or whatever the code under test lets out. What is returned says what happened: a case
        with something new is kept and mutated further.
        """

    def close(self) -> None: ...
