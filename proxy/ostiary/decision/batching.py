"""Questions that are asked together go to the policy together.

OPA's HTTP costs as much as a decision does, and the client's costs more; a batch pays both once. Nothing waits for
company: a question goes out in the same turn of the event loop as long as fewer than `lanes` calls are under way, and
what comes while they all are goes out, at most `most` at a time, as soon as one of them is back.

Nobody's company is forced on others. Identities take turns, so that one which asks a thousand questions at once is
ahead of nobody; and questions that hold a lot (parameters, segments, groups) fill a call sooner, so that a call with
some of them is not late for the others in it.

What the proxy asks by itself about an identity (`aside`) takes turns of its own, so that nobody delays it by asking.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ostiary.decision.query import Answer, EvaluationFailed, PolicyQuery
from ostiary.errors import PolicyUnavailable
from ostiary.models import Json

_MOST: Final = 32
_HEAVIEST: Final = 512
"""Values (of paths, queries and claims) in a call, after which nothing is added: each costs the policy microseconds."""
_LANES: Final = 2
"""One call that OPA works on, and one that is written or read meanwhile. Where OPA has one core there is to be one: a
large call that Go's scheduler has interrupted waits behind dozens of small ones (p99 at 32 connections 400 ms, with one
lane 40)."""


class BatchQuery(Protocol):
    """A `PolicyQuery` that can also be asked many questions at once."""

    async def query(self, document: Mapping[str, Json]) -> Answer: ...

    async def query_batch(self, documents: Sequence[Mapping[str, Json]]) -> list[Answer]:
        """An answer for each document, in order. `EvaluationFailed` if one of them spoils the call."""


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    document: Mapping[str, Json]
    answer: asyncio.Future[Answer]


class BatchingPolicy:
    """A `PolicyQuery`. `deadline` (seconds) covers a question's wait for its turn as well as its answer.

    `asked` counts the questions that were sent, `sent` the calls that took them.
    """

    def __init__(self, *, policy: BatchQuery, deadline: float, most: int = _MOST, lanes: int = _LANES) -> None:
        if deadline <= 0 or most < 1 or lanes < 1:
            raise ValueError("deadline, most and lanes are above 0")
        self._policy = policy
        self._deadline = deadline
        self._most = most
        self._lanes = lanes
        self._waiting: OrderedDict[Hashable, deque[_Question]] = OrderedDict()  # by whose turn it is, first
        self._calls: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self.asked = self.sent = 0
        self.aside: PolicyQuery = _Aside(self)
        """For questions that wait for none of those which their identity has asked."""

    @property
    def queued(self) -> int:
        """Questions that wait for their turn."""
        return sum(map(len, self._waiting.values()))

    async def query(self, document: Mapping[str, Json]) -> Answer:
        return await self.ask(document, turn=_asker(document))

    async def ask(self, document: Mapping[str, Json], *, turn: Hashable) -> Answer:
        """Ask when it is that one's turn."""
        loop = asyncio.get_running_loop()
        question = _Question(document, loop.create_future())
        self._waiting.setdefault(turn, deque()).append(question)
        if not self._scheduled and len(self._calls) < self._lanes:
            # At the end of this turn, so that those who come in the same turn go along.
            self._scheduled = True
            loop.call_soon(self._depart)
        late = loop.call_later(self._deadline, self._late, question)
        try:
            return await question.answer
        finally:
            late.cancel()

    def _late(self, question: _Question) -> None:
        if not question.answer.done():
            question.answer.set_exception(PolicyUnavailable(f"OPA did not answer within {self._deadline:g} s"))

    def _depart(self) -> None:
        self._scheduled = False
        while self._waiting and len(self._calls) < self._lanes:
            batch = self._next()
            if batch:
                self.asked += len(batch)
                self.sent += 1
                call = asyncio.create_task(self._call(batch), name="ostiary-decisions")
                self._calls.add(call)
                call.add_done_callback(self._returned)

    def _next(self) -> list[_Question]:
        """The next questions that somebody still waits for."""
        batch: list[_Question] = []
        weight = 0
        while self._waiting and len(batch) < self._most and weight < _HEAVIEST:
            asker, questions = self._waiting.popitem(last=False)
            question = questions.popleft()
            if questions:
                self._waiting[asker] = questions
            if not question.answer.done():
                batch.append(question)
                weight += _weight(question.document)
        return batch

    def _returned(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._depart()

    async def _call(self, batch: list[_Question]) -> None:
        if len(batch) == 1:
            await self._ask_alone(batch[0])
            return
        try:
            answers = await self._policy.query_batch([question.document for question in batch])
        except EvaluationFailed:
            # One of them spoiled it for all: each by itself, so that only the culprit goes without an answer, and at
            # once, so that it does not make the others late.
            await asyncio.gather(*(self._ask_alone(question) for question in batch if not question.answer.done()))
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may be left waiting
            for question in batch:
                _fail(question, error)
        else:
            for question, answer in zip(batch, answers, strict=True):
                if not question.answer.done():
                    question.answer.set_result(answer)

    async def _ask_alone(self, question: _Question) -> None:
        try:
            answer = await self._policy.query(question.document)
        except Exception as error:  # noqa: BLE001 - as above
            _fail(question, error)
        else:
            if not question.answer.done():
                question.answer.set_result(answer)


class _Aside:
    """A `PolicyQuery`."""

    def __init__(self, policy: BatchingPolicy) -> None:
        self._policy = policy

    async def query(self, document: Mapping[str, Json]) -> Answer:
        return await self._policy.ask(document, turn=("aside", _asker(document)))


def _fail(question: _Question, error: Exception) -> None:
    """Each gets an exception of its own: one that is raised in many places grows a traceback in each."""
    if question.answer.done():
        return
    if isinstance(error, PolicyUnavailable):
        unavailable = type(error)(error.detail)
    else:
        unavailable = PolicyUnavailable(type(error).__name__)
    unavailable.__cause__ = error
    question.answer.set_exception(unavailable)


def _asker(document: Mapping[str, Json]) -> Hashable:
    """Whose question it is. Those of nobody in particular are one queue."""
    subject = document.get("subject")
    return None if subject is None else (subject["properties"]["issuer"], subject["id"])


def _weight(document: Mapping[str, Json]) -> int:
    if "subject" not in document or "resource" not in document:
        return 0
    asked = document["resource"]["properties"]
    claims = document["subject"]["properties"]["claims"].values()
    return (
        len(asked["segments"])
        + 2 * len(asked["query"] or ())
        + sum(len(claim) for claim in claims if isinstance(claim, list | dict))
    )
