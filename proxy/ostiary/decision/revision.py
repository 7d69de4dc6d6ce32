"""Revisions, `<sequence>-<digest>`: sequences only grow, so an older one is a rollback."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_REVISION: Final = re.compile(r"(0|[1-9][0-9]{0,18})-([0-9A-Za-z]{1,128})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Revision:
    """The identity of a policy bundle."""

    sequence: int
    digest: str

    @classmethod
    def parse(cls, text: object) -> Revision | None:
        """The revision that `text` spells, or None."""
        found = _REVISION.fullmatch(text) if isinstance(text, str) else None
        return None if found is None else cls(int(found[1]), found[2])

    def may_follow(self, earlier: Revision) -> bool:
        """Whether this can be what is active after `earlier`: any but one with a lower sequence.

        Two bundles with one sequence are not ordered, so either may follow the other: that is what somebody gets who
        builds twice between two commits. Who relies on this against rollback gives every bundle its own sequence.
        """
        return self.sequence >= earlier.sequence

    def is_twin(self, other: Revision) -> bool:
        """Whether this is another bundle with the same sequence."""
        return self.sequence == other.sequence and self != other

    def __str__(self) -> str:
        return f"{self.sequence}-{self.digest}"
