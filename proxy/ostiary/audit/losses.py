"""What is counted in place of lines that were left out."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from ostiary.audit.lines import capped
from ostiary.models import Owner

NAMED: Final = 100
"""Identities that one report names; those that come later are counted together. Bounds the line, with the next."""
MAX_NAME: Final = 512


class Losses:
    """Lines that were not written, counted by what they would have said. The names are those of the reasons and kinds.

    `over_quota` are strangers beyond their quota, `identities` those who were identified beyond theirs, `others` the
    same where there are too many to be named, and `no_room` are lines that found the queue full.
    """

    __slots__ = ("identities", "no_room", "others", "over_quota", "since", "total")

    def __init__(self) -> None:
        self.over_quota: Counter[str] = Counter()
        self.identities: dict[Owner, Counter[str]] = {}
        self.others: Counter[str] = Counter()
        self.no_room: Counter[str] = Counter()
        self.since: str | None = None
        self.total = 0

    def by(self, owner: Owner | None) -> Counter[str]:
        """Where what this identity has beyond its quota is counted; None stands for strangers."""
        if owner is None:
            return self.over_quota
        counted = self.identities.get(owner)
        if counted is None:
            if len(self.identities) >= NAMED:
                return self.others
            counted = self.identities[owner] = Counter()
        return counted

    def count(self, entries: Counter[str], entry: str, now: str) -> None:
        entries[entry] += 1
        self.total += 1
        if self.since is None:
            self.since = now

    def document(self) -> dict[str, Any]:
        return {
            "since": self.since,
            "over_quota": dict(self.over_quota),
            "identities": [
                {"issuer": capped(issuer, MAX_NAME), "subject": capped(subject, MAX_NAME), "over_quota": dict(counted)}
                for (issuer, subject), counted in self.identities.items()
            ],
            "other_identities": dict(self.others),
            "no_room": dict(self.no_room),
        }

    def reset(self) -> None:
        self.over_quota.clear()
        self.identities.clear()
        self.others.clear()
        self.no_room.clear()
        self.since = None
