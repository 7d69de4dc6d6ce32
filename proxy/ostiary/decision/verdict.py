"""What a proxy makes of the bundle that its OPA has, as it is told to a bundle server with OPA's report.

It is one more member of the report, `ostiary`, because OPA says itself only which bundle it has, and that may be one
that the proxy refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ostiary.models import Json

MEMBER: Final = "ostiary"
LARGEST_REPORT: Final = 512 * 1024
"""Bytes of a report of OPA's, which has its own metrics in it where `status.prometheus` is on."""
LONGEST_REASON: Final = 300
"""Characters of a reason that are told, and read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`active` is the revision that OPA had when the proxy looked last, `counts` the one by which requests are decided,
    and `refused` why the active one is not used."""

    active: str | None
    counts: str | None
    refused: str | None

    def document(self) -> dict[str, Json]:
        refused = None if self.refused is None else self.refused[:LONGEST_REASON]
        return {"active": self.active, "counts": self.counts, "refused": refused}
