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
        """Whether this can be what is active after `earlier`: itself, or one with a higher sequence.

        Another digest under the same sequence cannot: nobody could say which of the two is the newer.
        """
        return self.sequence > earlier.sequence or self == earlier

    def __str__(self) -> str:
        return f"{self.sequence}-{self.digest}"
