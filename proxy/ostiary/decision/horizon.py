"""Which bundle counts in this process.

Two rules hang on it. No allow of another bundle is believed by a request that was received after this one was known to
count (OPA itself accepts a rollback to an older signed bundle), and no answer of another bundle than the one that
counts is used again.

Who says so is the supervisor, for all workers: it looks at each bundle before any of them believes it, and announces
those that may be used, an older one among them where a signed statement goes back to it. What is announced counts from
that instant in every worker. A worker that meets a bundle which was not announced asks the supervisor to look, waits a
moment with the allows of it, and does without what it has kept meanwhile; what is announced as refused is refused at
once.

Without announcements (in tools, that have no supervisor) the newest bundle counts that was seen in an answer. Bundles
with one sequence are not ordered: of those the one seen last counts, but not by an answer that was under way when
another came: it may be the older one, late.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from ostiary.decision.revision import Revision

_log = logging.getLogger("ostiary.decision")

_PATIENCE: Final = 1.0
"""Seconds that a request waits for the supervisor's word on a bundle: it takes a few milliseconds."""
_PAUSE: Final = 0.002
_NUDGES: Final = 0.05
"""Seconds between two requests to look."""


class Announcements(Protocol):
    """What the supervisor tells all workers of the machine. Looked at for every request: `epoch` must cost next to
    nothing."""

    @property
    def epoch(self) -> int:
        """Grows with every announcement."""

    def revision(self) -> str | None:
        """What was announced last, as `announcement` writes it; None if that cannot be told yet."""


def announcement(counts: Revision | None, refused: Revision | None) -> str:
    """One word: the bundle that counts, and after a slash the one that OPA has and that is not to be believed."""
    text = "" if counts is None else str(counts)
    return text if refused is None else f"{text}/{refused}"


class PolicyHorizon:
    """`announcements` is looked at whenever this is asked. `unknown` is called when a bundle is met of which nothing
    was announced."""

    def __init__(
        self, *, announcements: Announcements | None = None, unknown: Callable[[], None] = lambda: None
    ) -> None:
        self._announcements = announcements
        self._unknown = unknown
        self._nudged = 0.0
        self._doubtful_until = 0.0
        self._epoch = 0
        self._latest: Revision | None = None
        self._refused: Revision | None = None
        self._current: str | None = None
        self._distrusted: str | None = None
        self._changes = 0

    @property
    def latest(self) -> Revision | None:
        """The bundle that counts, None before one is known and while none does."""
        self._listen()
        return self._latest

    @property
    def current(self) -> str | None:
        """The same as text, but None for a bundle that predictions and caches are off for, and while another one was
        met of which nothing is known."""
        self._listen()
        if self._doubtful_until:
            if time.monotonic() < self._doubtful_until:
                return None
            self._doubtful_until = 0.0
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
        if self._announcements is not None:
            if found != self._refused:
                self._doubtful_until = time.monotonic() + _PATIENCE
                self._nudge()
        elif latest is None or found.sequence > latest.sequence or (found.is_twin(latest) and asked == self._changes):
            self._count(found)
        return found

    async def believes(self, revision: Revision, *, known: Revision | None) -> bool:
        """Whether an allow of this bundle may be believed that was asked for when `known` counted.

        It may if that was the one: an answer that was under way while another came to count is no rollback.
        """
        if self._announcements is None:
            return known is None or revision.may_follow(known)
        if revision == known:
            return True
        deadline = time.monotonic() + _PATIENCE
        while revision != self.latest:
            if revision == self._refused or time.monotonic() > deadline:
                return False
            self._nudge()
            await asyncio.sleep(_PAUSE)
        return True

    def distrust(self, revision: str, why: str) -> None:
        """Do without predictions and caches for as long as this bundle counts: they were found not to be its own."""
        if self._distrusted == revision:
            return
        self._distrusted = revision
        if self._current == revision:
            self._current = None
        _log.error("predictions and cached decisions are off for the bundle %s: %s", revision, why)

    def _nudge(self) -> None:
        now = time.monotonic()
        if now - self._nudged >= _NUDGES:
            self._nudged = now
            self._unknown()

    def _listen(self) -> None:
        announcements = self._announcements
        if announcements is None:
            return
        epoch = announcements.epoch
        if epoch == self._epoch:
            return
        text = announcements.revision()
        if text is None:
            self._current = None  # something newer there is: do without what is kept, and look again
            return
        self._epoch = epoch
        self._doubtful_until = 0.0
        counts, _, refused = text.partition("/")
        self._refused = Revision.parse(refused)
        self._count(Revision.parse(counts))

    def _count(self, revision: Revision | None) -> None:
        if revision != self._latest:
            self._latest = revision
            self._changes += 1
        text = None if revision is None else str(revision)
        self._current = None if text == self._distrusted else text
