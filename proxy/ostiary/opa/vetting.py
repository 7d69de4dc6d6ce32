"""Which bundle may be used: not one that is older than what was active here before, and not one that does not decide.

OPA takes an older bundle as readily as a newer one, whoever signed it, and after a restart nobody would know. So the
highest sequence is remembered (`record`), and configuration can say the least one that is taken at all. Going back
takes a signed statement (`rollback`); what it took back does not return, only what is newer. Of two bundles with one
sequence nobody can say which is older: the other one is taken, with a warning.

A bundle is used once it has answered as it must: no to the empty question, and what it says itself about the questions
that its builder put in (`ostiary.policy.probes`), of which at least one is a no.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from ostiary.clock import Clock, SystemClock
from ostiary.decision.query import Answer, EvaluationFailed
from ostiary.decision.revision import Revision
from ostiary.errors import PolicyUnavailable
from ostiary.models import Json
from ostiary.opa.archive import Verification
from ostiary.opa.client import OpaClient
from ostiary.opa.record import PolicyRecord, Remembered
from ostiary.opa.rollback import StatementError, verified
from ostiary.opa.statements import StatementSource

_log = logging.getLogger("ostiary.opa")

_MOST: Final = 16
"""Questions that a bundle brings, at most."""


class OpaNotReady(Exception):
    """No OPA that could answer decisions. The message is one sentence, or OPA's own lines."""


class BundleRefused(OpaNotReady):
    """This bundle is not used. The message is one sentence."""


class Vetting:
    """`minimum` is the least sequence that is taken. `statement` is where a rollback's statement is, and
    `verification` whose signature that must have; without both nothing goes back."""

    def __init__(
        self,
        *,
        record: PolicyRecord | None = None,
        minimum: int = 0,
        statement: StatementSource | None = None,
        verification: Verification | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.record = record or PolicyRecord()
        self._minimum = minimum
        self._statement = statement
        self._verification = verification
        self._clock = clock or SystemClock()

    async def admit(self, revision: Revision) -> None:
        """Return if its sequence may be active now. Raises `BundleRefused`."""
        if revision.sequence < self._minimum:
            raise BundleRefused(f"the bundle {revision} is older than opa.minimum_revision, {self._minimum}")
        known = self.record.remembered
        if known is None or revision == known.active or revision.sequence > known.highest.sequence:
            return
        if revision.sequence == known.highest.sequence and not known.rolled_back:
            return
        await self._go_back(revision, known)

    def took(self, revision: Revision) -> None:
        """It is what counts from now on. Raises `OSError` if that cannot be remembered."""
        known = self.record.remembered
        self.record.took(revision, now=self._clock.now())
        if known is None or revision == known.active:
            return
        if revision.sequence < known.active.sequence:
            _log.warning("rolled back from the bundle %s to %s, as a signed statement says", known.active, revision)
        elif revision.sequence == known.highest.sequence:
            told = "the bundle %s takes the place of %s, and may be older than that: they have one sequence"
            _log.warning(told, revision, known.active)

    async def _go_back(self, revision: Revision, known: Remembered) -> None:
        older, highest = _why_not(revision, known), known.highest
        if self._statement is None or self._verification is None:
            raise BundleRefused(older)
        try:
            content = await self._statement.read()
            if content is None:
                raise BundleRefused(older)
            found = verified(content, self._verification)
        except StatementError as error:
            raise BundleRefused(f"{older}, and the statement {self._statement} is not believed: {error}") from error
        if found.to != revision:
            raise BundleRefused(f"{older}, and the statement {self._statement} is for {found.to}")
        if found.back_from.sequence < highest.sequence:
            told = f"takes back what is not newer than {found.back_from}"
            raise BundleRefused(f"{older}, and the statement {self._statement} {told}")
        if found.expires <= self._clock.now():
            raise BundleRefused(f"{older}, and the statement {self._statement} has expired")


def _why_not(revision: Revision, known: Remembered) -> str:
    if known.rolled_back and revision.sequence > known.active.sequence:
        taken_back = f"the bundle {revision} was taken back by the signed statement that went back to {known.active}"
        return f"{taken_back}: only what is newer than {known.highest} follows"
    return f"the bundle {revision} does not follow {known.highest}, which was active before"


async def examine(client: OpaClient, revision: Revision) -> None:
    """Ask the questions whose answers are known, at once: the policy takes effect when they are answered.

    Raises `BundleRefused`, and `PolicyUnavailable` where OPA does not answer, or answers by another bundle meanwhile.
    """
    said, listed = await asyncio.gather(_allows(client, {}, revision), client.probes())
    if said is True:
        raise BundleRefused(f"the bundle {revision} allows the empty question, so it would allow anything")
    if said is not False:
        raise BundleRefused(f"the bundle {revision} does not decide: it holds no ostiary policy, or a broken one")
    probes = _probes(listed, revision)
    answers = await asyncio.gather(*(_allows(client, question, revision) for question, _ in probes))
    for (question, expected), said in zip(probes, answers, strict=True):
        if said is not expected:
            told = "allows what it has to deny" if said is True else "does not allow what it has to"
            told = "does not decide" if not isinstance(said, bool) else told
            raise BundleRefused(f"the bundle {revision} fails its probe: it {told} ({_named(question)})")


async def _allows(client: OpaClient, question: dict[str, Json], revision: Revision) -> Json:
    try:
        answer = await client.query(question)
    except EvaluationFailed:
        return None
    _same(answer.revision, revision)
    return answer.result.get("allow") if isinstance(answer.result, dict) else None


def _probes(answer: Answer, revision: Revision) -> list[tuple[dict[str, Json], bool]]:
    _same(answer.revision, revision)
    listed = answer.result if isinstance(answer.result, list) else []
    found = [
        (one["input"], one["allow"])
        for one in listed[:_MOST]
        if isinstance(one, dict) and isinstance(one.get("input"), dict) and isinstance(one.get("allow"), bool)
    ]
    if len(found) != len(listed) or all(allow for _, allow in found):
        raise BundleRefused(f"the bundle {revision} has no probe, or none that can be read: build it anew")
    return found


def _same(found: str | None, revision: Revision) -> None:
    if found != str(revision):
        raise PolicyUnavailable(f"the bundle {found} answered where {revision} was asked")


def _named(question: dict[str, Json]) -> str:
    """Who asks for what, as far as the question says."""
    try:
        segments = "/".join(question["resource"]["properties"]["segments"])
        return f"{question['subject']['id']}: {question['action']['name']} /{segments} of {question['resource']['id']}"
    except (KeyError, TypeError):
        return "a question that is none"
