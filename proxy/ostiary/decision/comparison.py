"""A candidate policy, asked beside the one that decides, about some of what that has decided.

Nothing of it is on the way of a request: the decision is made, then what was asked and answered is put into a queue, if
there is room, and the request goes on. One task puts what is in the queue to the candidate and counts what it would
have decided otherwise. A candidate that fails, is slow or is not there costs nobody more than a place in that queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple, TypeAlias

from ostiary.clock import Clock
from ostiary.decision.batching import BatchQuery
from ostiary.decision.contract import parse_decision
from ostiary.decision.query import Answer, EvaluationFailed
from ostiary.errors import PolicyUnavailable
from ostiary.interfaces import Authorizer
from ostiary.models import AccessRequest, Decision

_log = logging.getLogger("ostiary.candidate")

Kind: TypeAlias = Literal["would-allow", "would-deny", "other-reasons"]
Result: TypeAlias = Kind | Literal["same", "unanswered", "dropped"]

MOST: Final = 32
"""Questions in a call."""
ROOM: Final = 1000
"""Decisions that wait to be compared."""
NAMED: Final = 1000
"""Differences that are counted by name; the others are counted together."""
_PAUSE: Final = 1.0
"""Seconds before a candidate that gave no answer is asked again."""
_LOGGED: Final = 5
"""Differences in a second that are logged; the others are counted."""


class Difference(NamedTuple):
    """What the candidate would do, and to whom."""

    kind: Kind
    caller: str | None
    service: str
    endpoint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateFacts:
    """Since this worker knows the candidate's `revision`. `compared` decisions were asked about, `dropped` found no
    room, `unanswered` met no candidate. `unnamed` differences are those beyond what is counted by name. `results` are
    of all candidates since the worker's start."""

    revision: str | None
    compared: int
    dropped: int
    unanswered: int
    differences: tuple[tuple[Difference, int], ...]
    unnamed: int
    results: Mapping[Result, int]


class ComparingAuthorizer:
    """Implements `interfaces.Authorizer`: the decisions are another authorizer's, and are shown to the comparison."""

    def __init__(self, *, authorizer: Authorizer, comparison: Comparison) -> None:
        self._authorizer = authorizer
        self._comparison = comparison

    async def decide(self, request: AccessRequest) -> Decision:
        decision = await self._authorizer.decide(request)
        self._comparison.offer(request, decision)
        return decision


class Comparison:
    """Opened (`start`) and closed with the worker. `sample` is the part of the decisions that is compared."""

    def __init__(
        self,
        *,
        policy: BatchQuery,
        sample: float,
        clock: Clock,
        room: int = ROOM,
        drawn: Callable[[], float] = random.random,
    ) -> None:
        if not 0 < sample <= 1:
            raise ValueError("a sample is above 0 and at most 1")
        self._policy = policy
        self._sample = sample
        self._room = room
        self._drawn = drawn
        self._queue: deque[tuple[AccessRequest, Decision]] = deque()
        self._coming = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._revision: str | None = None
        self._differences: Counter[Difference] = Counter()
        self._compared = self._dropped = self._unanswered = self._unnamed = 0
        self._results: Counter[Result] = Counter()
        self._told = _Told(clock)

    def offer(self, request: AccessRequest, decision: Decision) -> None:
        """Perhaps compare this decision later. Never waits, never fails."""
        if self._drawn() >= self._sample:
            return
        if len(self._queue) >= self._room:
            self._dropped += 1
            self._results["dropped"] += 1
            return
        self._queue.append((request, decision))
        self._coming.set()

    def facts(self) -> CandidateFacts:
        return CandidateFacts(
            revision=self._revision,
            compared=self._compared,
            dropped=self._dropped,
            unanswered=self._unanswered,
            differences=tuple(self._differences.most_common()),
            unnamed=self._unnamed,
            results=dict(self._results),
        )

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="ostiary-comparison")

    async def close(self) -> None:
        """What is not compared by now is not."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await self._coming.wait()
            self._coming.clear()
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(MOST, len(self._queue)))]
                try:
                    await self._compare(batch)
                except PolicyUnavailable:
                    self._went_unanswered(batch)
                    await asyncio.sleep(_PAUSE)
                except Exception:  # noqa: BLE001 - whatever it is, the next decisions are compared
                    self._went_unanswered(batch)
                    _log.exception("decisions could not be compared")
                    await asyncio.sleep(_PAUSE)

    def _went_unanswered(self, batch: Sequence[object]) -> None:
        self._unanswered += len(batch)
        self._results["unanswered"] += len(batch)

    async def _compare(self, batch: Sequence[tuple[AccessRequest, Decision]]) -> None:
        # What was predicted is the active policy's, and the candidate would refuse it.
        asked = [replace(request, endpoint=None, revision=None) for request, _ in batch]
        for request, (_, decision), answer in zip(asked, batch, await self._answers(asked), strict=True):
            if answer is not None:
                self._about(answer.revision)
            self._compared += 1
            would = _parsed(answer, request)
            difference = _difference(request, decision, would)
            self._results["same" if difference is None else difference.kind] += 1
            if difference is not None:
                self._count(difference, request, would)

    async def _answers(self, asked: Sequence[AccessRequest]) -> Sequence[Answer | None]:
        try:
            return await self._policy.query_batch([request.document() for request in asked])
        except EvaluationFailed:
            # One spoiled it for all: each by itself, so that only the culprit goes without an answer.
            return [await self._alone(request) for request in asked]

    async def _alone(self, request: AccessRequest) -> Answer | None:
        try:
            return await self._policy.query(request.document())
        except EvaluationFailed:
            return None

    def _about(self, revision: str | None) -> None:
        """What was counted of another candidate says nothing of this one."""
        if revision == self._revision:
            return
        self._revision = revision
        self._differences.clear()
        self._compared = self._dropped = self._unanswered = self._unnamed = 0

    def _count(self, difference: Difference, request: AccessRequest, would: Decision | None) -> None:
        if difference in self._differences or len(self._differences) < NAMED:
            self._differences[difference] += 1
        else:
            self._unnamed += 1
        self._told.say(difference, request, would, self._revision)


def _parsed(answer: Answer | None, request: AccessRequest) -> Decision | None:
    if answer is None:
        return None
    try:
        return parse_decision(answer, request)
    except PolicyUnavailable:
        return None


def _difference(request: AccessRequest, decision: Decision, would: Decision | None) -> Difference | None:
    """None for the same. A candidate that fails to answer denies: the proxy would."""
    service = request.target.service
    if would is not None and would.allow:
        return None if decision.allow else Difference("would-allow", would.caller, service, would.endpoint)
    if decision.allow:
        return Difference("would-deny", decision.caller, service, decision.endpoint)
    if set(_reasons(would)) == set(decision.reasons):
        return None
    return Difference("other-reasons", decision.caller, service, decision.endpoint)


def _reasons(would: Decision | None) -> tuple[str, ...]:
    return (PolicyUnavailable.reason,) if would is None else would.reasons


class _Told:
    """A log of differences that no traffic floods."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._second = 0
        self._lines = self._untold = 0

    def say(self, difference: Difference, request: AccessRequest, would: Decision | None, revision: str | None) -> None:
        second = int(self._clock.monotonic())
        if second != self._second:
            self._second, self._lines = second, 0
        if self._lines >= _LOGGED:
            self._untold += 1
            return
        self._lines += 1
        untold, self._untold = self._untold, 0
        _log.warning(
            "the candidate %s %s: %s %s of %s, by %s of %s from %s (%s)%s",
            revision,
            difference.kind.replace("-", " "),
            request.method,
            request.target.path,
            request.target.service,
            request.identity.subject,
            request.identity.issuer,
            request.source_ip,
            ", ".join(_reasons(would)) or f"by {would.permission or would.grant}" if would is not None else _NO_ANSWER,
            f"; {untold} more were not logged" if untold else "",
        )


_NO_ANSWER: Final = "it fails to answer"
