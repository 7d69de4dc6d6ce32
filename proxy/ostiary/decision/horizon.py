"""Which bundle counts in this process: the newest one that was seen in an answer, or that it was told of.

Two rules hang on it. No allow of an older bundle is believed by a request that was received after a newer one was
known (OPA itself accepts a rollback to an older signed bundle), and no answer of another bundle than the one that
counts is used again. What is announced counts from that instant, in every worker, before any of them has seen it.

Bundles with one sequence (built twice between two commits) are not ordered. Of those the one seen last counts, but not
by an answer that was under way when another came: it may be the older one, late.
"""

from __future__ import annotations

import logging
from typing import Protocol

from ostiary.decision.revision import Revision

_log = logging.getLogger("ostiary.decision")


class Announcements(Protocol):
    """What the supervisor tells all workers of the machine. Looked at for every request: `epoch` must cost next to
    nothing."""

    @property
    def epoch(self) -> int:
        """Grows with every announcement."""

    def revision(self) -> str | None:
        """The bundle that was announced last; None if that cannot be told yet."""


class PolicyHorizon:
    """`announcements` is looked at whenever this is asked."""

    def __init__(self, *, announcements: Announcements | None = None) -> None:
        self._announcements = announcements
        self._epoch = 0
        self._latest: Revision | None = None
        self._current: str | None = None
        self._distrusted: str | None = None
        self._changes = 0

    @property
    def latest(self) -> Revision | None:
        """The bundle that counts, None before one is known."""
        self._listen()
        return self._latest

    @property
    def current(self) -> str | None:
        """The same as text, but None for a bundle that predictions and caches are off for."""
        self._listen()
        return self._current

    @property
    def changes(self) -> int:
        """How often another bundle came to count. Taken before asking, it tells `saw` what was known then."""
        self._listen()
        return self._changes

    def saw(self, revision: str | None, *, asked: int) -> Revision | None:
        """An answer of this revision came, to a question that was asked when there had been `asked` changes.

        The revision, parsed, or None if it is none.
        """
        self._listen()
        found = Revision.parse(revision)
        latest = self._latest
        if found is None or found == latest:
            return found
        if latest is None or found.sequence > latest.sequence or self._is_twin(found, latest, asked):
            self._count(found)
        return found

    def _is_twin(self, found: Revision, latest: Revision, asked: int) -> bool:
        return found.sequence == latest.sequence and asked == self._changes

    def distrust(self, revision: str, why: str) -> None:
        """Do without predictions and caches for as long as this bundle counts: they were found not to be its own."""
        if self._distrusted == revision:
            return
        self._distrusted = revision
        if self._current == revision:
            self._current = None
        _log.error("predictions and cached decisions are off for the bundle %s: %s", revision, why)

    def _listen(self) -> None:
        announcements = self._announcements
        if announcements is None:
            return
        epoch = announcements.epoch
        if epoch == self._epoch:
            return
        announced = Revision.parse(announcements.revision())
        if announced is None:
            self._current = None  # something newer there is: do without what is kept, and look again
            return
        self._epoch = epoch
        if self._latest is None or (announced != self._latest and announced.may_follow(self._latest)):
            self._count(announced)
        else:
            self._use(self._latest)

    def _count(self, revision: Revision) -> None:
        self._latest = revision
        self._changes += 1
        self._use(revision)

    def _use(self, revision: Revision) -> None:
        text = str(revision)
        self._current = None if text == self._distrusted else text
