"""A replay: pieces are read side by side, and each distinct question is put to the candidate once.

A million requests are often tens of thousands of questions. Those go to OPA in batches, several at a time, while the
next pieces are read; how far reading may be ahead is bounded.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Final, NamedTuple, cast

import orjson

from ostiary.decision.batching import BatchQuery
from ostiary.decision.contract import parse_decision
from ostiary.decision.query import Answer, EvaluationFailed
from ostiary.errors import PolicyUnavailable
from ostiary.models import AccessRequest, Json
from ostiary.policy.replay.pieces import Answered, Found, Piece, pieces, read_piece
from ostiary.policy.replay.recorded import Malformed, request_of
from ostiary.policy.replay.tally import Tally, Verdict

BATCH: Final = 64
"""Questions in one call."""
LANES: Final = 4
"""Calls under way."""


async def replay(
    paths: Sequence[Path],
    policy: BatchQuery,
    *,
    readers: Executor,
    ahead: int,
    passed: Callable[[str, int], None] = lambda _file, _bytes: None,
) -> Tally:
    """Replay these files. `readers` read, at most `ahead` pieces at a time; `passed` hears how far each file is.

    Raises `PolicyUnavailable` if the candidate cannot be asked, and OSError.
    """
    tally = Tally()
    coming: Iterator[Piece] = itertools.chain.from_iterable(map(pieces, paths))
    try:
        async with asyncio.TaskGroup() as group:
            asking = _Asking(policy, tally, group)
            async for piece, found in _read(coming, readers, ahead):
                await asking.take(found)
                passed(piece.file, piece.passed)
            await asking.finish()
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None  # the others are of the same cause
    return tally


async def _read(coming: Iterator[Piece], readers: Executor, ahead: int) -> AsyncIterator[tuple[Piece, Found]]:
    """What is in each piece, in their order."""
    loop = asyncio.get_running_loop()
    under_way: deque[tuple[Piece, asyncio.Future[Found]]] = deque()
    while (piece := await asyncio.to_thread(next, coming, None)) is not None:
        under_way.append((piece, loop.run_in_executor(readers, read_piece, piece)))
        if len(under_way) >= ahead:
            done, found = under_way.popleft()
            yield done, await found
    for done, found in under_way:
        yield done, await found


class _Asking:
    """What is known of each question: the verdict, or who waits for it."""

    def __init__(self, policy: BatchQuery, tally: Tally, group: asyncio.TaskGroup) -> None:
        self._policy = policy
        self._tally = tally
        self._group = group
        self._known: dict[bytes, Verdict] = {}
        self._waiting: dict[bytes, list[Answered]] = {}
        self._batch: list[_Question] = []
        self._lanes = asyncio.Semaphore(LANES)
        self._verdicts: dict[Verdict, Verdict] = {}

    async def take(self, found: Found) -> None:
        self._tally.not_replayable.update(found.not_replayable)
        self._tally.named_malformed(found.malformed, found.malformed_count)
        for key, (question, answered) in found.questions.items():
            verdict = self._known.get(key)
            if verdict is not None:
                self._add(question, answered, verdict)
                continue
            waiting = self._waiting.get(key)
            if waiting is not None:
                waiting.append(answered)
                continue
            try:
                request = request_of(orjson.loads(question))
            except Malformed as error:
                count = sum(times for times, _ in answered.values())
                [(_, decision_id), *_] = answered.values()
                self._tally.named_malformed([f"decision {decision_id}: {error}"], count)
                continue
            self._waiting[key] = [answered]
            self._batch.append(_Question(key, question, request))
            if len(self._batch) >= BATCH:
                await self.finish()

    async def finish(self) -> None:
        """Ask what is left; returns when there is a lane for it."""
        batch, self._batch = self._batch, []
        if batch:
            await self._lanes.acquire()
            self._group.create_task(self._ask(batch))

    async def _ask(self, batch: list[_Question]) -> None:
        try:
            answers = await _answers(self._policy, [each.text for each in batch])
        finally:
            self._lanes.release()
        for question, answer in zip(batch, answers, strict=True):
            told = _verdict(answer, question.request)
            verdict = self._known[question.key] = self._verdicts.setdefault(told, told)
            self._tally.distinct += 1
            for answered in self._waiting.pop(question.key):
                self._add(question.text, answered, verdict)

    def _add(self, question: bytes, answered: Answered, verdict: Verdict) -> None:
        for outcome, (count, decision_id) in answered.items():
            self._tally.add(question, outcome, verdict, count, decision_id)


class _Question(NamedTuple):
    key: bytes
    text: bytes
    request: AccessRequest


async def _answers(policy: BatchQuery, questions: Sequence[bytes]) -> Sequence[Answer | None]:
    """What the candidate answers to each; None where it fails. Raises `PolicyUnavailable` if it cannot be asked."""
    try:
        return await policy.query_batch([_written(each) for each in questions])
    except EvaluationFailed:
        # One spoiled it for all: each by itself, as the proxy does, so that only the culprit goes without an answer.
        return await asyncio.gather(*(_alone(policy, each) for each in questions))


async def _alone(policy: BatchQuery, question: bytes) -> Answer | None:
    try:
        return await policy.query(_written(question))
    except EvaluationFailed:
        return None


def _written(question: bytes) -> Mapping[str, Json]:
    """An object that is JSON already, for who would write it as JSON."""
    return cast("Mapping[str, Json]", orjson.Fragment(question))


_NO_ANSWER: Final = Verdict(
    allow=False, caller=None, endpoint=None, reasons=(PolicyUnavailable.reason,), permission=None
)


def _verdict(answer: Answer | None, request: AccessRequest) -> Verdict:
    if answer is None:
        return _NO_ANSWER
    try:
        decision = parse_decision(answer, request)
    except PolicyUnavailable:
        return _NO_ANSWER
    return Verdict(
        allow=decision.allow,
        caller=decision.caller,
        endpoint=decision.endpoint,
        reasons=() if decision.allow else decision.reasons,
        permission=decision.permission or decision.grant,
    )
