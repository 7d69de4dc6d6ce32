"""What verifying an audit comes to: remarks, chains, and one verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, TypeAlias

Kind: TypeAlias = Literal[
    "altered",
    "removed",
    "reordered",
    "truncated",
    "foreign",
    "resume",
    "open",
    "anew",
    "pruned",
    "torn",
    "unchained",
    "key-missing",
    "unwitnessed",
]

FINDINGS: Final = frozenset({"altered", "removed", "reordered", "truncated", "foreign"})
UNKNOWN: Final = frozenset({"key-missing", "unwitnessed"})

MOST: Final = 1000
"""Remarks that are told one by one. Of the rest, findings are counted."""


def span(first: int, last: int) -> str:
    """`record 7`, `records 7 to 9`."""
    return f"record {first}" if first == last else f"records {first} to {last}"


def those(first: int, last: int) -> str:
    """The same as a subject: `record 7 is`, `records 7 to 9 are`."""
    return f"{span(first, last)} {'is' if first == last else 'are'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """One thing that was found. `line` counts from 1. What does not apply is None."""

    kind: Kind
    file: str | None = None
    line: int | None = None
    seq: int | None = None
    decision_id: str | None = None
    what: str

    @property
    def finding(self) -> bool:
        return self.kind in FINDINGS


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainReport:
    """One chain. `covered` is the last record that a checkpoint vouches for, None without any."""

    worker: str
    chain: str
    first: int
    last: int
    since: str | None
    until: str | None
    ended: bool
    covered: int | None


@dataclass(slots=True, kw_only=True)
class Report:
    """What came of verifying. `records` counts the lines that were read."""

    remarks: list[Remark] = field(default_factory=list)
    chains: list[ChainReport] = field(default_factory=list)
    records: int = 0
    untold: int = 0

    @property
    def findings(self) -> list[Remark]:
        return [one for one in self.remarks if one.finding]

    @property
    def verdict(self) -> Literal["whole", "findings", "unknown"]:
        if self.findings or self.untold:
            return "findings"
        return "unknown" if any(one.kind in UNKNOWN for one in self.remarks) else "whole"

    def document(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "records": self.records,
            "chains": [asdict(one) for one in self.chains],
            "findings": [asdict(one) for one in self.findings],
            "untold": self.untold,
            "notes": [asdict(one) for one in self.remarks if not one.finding],
        }

    def add(self, remark: Remark) -> int | None:
        """The place of the remark, or None if there are so many that it is only counted."""
        if len(self.remarks) >= MOST:
            self.untold += remark.finding
            return None
        self.remarks.append(remark)
        return len(self.remarks) - 1
