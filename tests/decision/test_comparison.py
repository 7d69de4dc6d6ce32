"""The comparison's promises to the request path: it never waits, never fails, and never holds more than it may."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from ostiary.clock import SystemClock
from ostiary.decision.comparison import ComparingAuthorizer, Comparison, Difference
from ostiary.decision.query import Answer, EvaluationFailed
from ostiary.decision.scripted import ScriptedAuthorizer
from ostiary.errors import PolicyUnavailable
from ostiary.models import Decision
from support.audit import decision
from support.opa import ALLOWED, DENIED, REVISION, answer, request, until


class Candidate:
    """A `BatchQuery` with one answer for everything: a document, an error, or none at all."""

    def __init__(self, said: Any, *, revision: str = REVISION) -> None:
        self.said, self.revision = said, revision
        self.asked: list[Mapping[str, Any]] = []
        self.hold = asyncio.Event()
        self.hold.set()

    async def query(self, document: Mapping[str, Any]) -> Answer:
        self.asked.append(document)
        await self.hold.wait()
        if isinstance(self.said, Exception):
            raise self.said
        return answer(self.said, revision=self.revision)

    async def query_batch(self, documents: Sequence[Mapping[str, Any]]) -> list[Answer]:
        return [await self.query(document) for document in documents]


async def shown(candidate: Candidate, *decisions: Decision, **settings: Any) -> Comparison:
    comparison = Comparison(policy=candidate, clock=SystemClock(), **{"sample": 1, **settings})
    await comparison.start()
    for each in decisions:
        comparison.offer(request(endpoint="get-order", revision=REVISION), each)
    await until(lambda: comparison.facts().compared + comparison.facts().unanswered >= len(decisions))
    await comparison.close()
    return comparison


ALLOW = decision()
DENY = decision(allow=False, reasons=("permission-missing",), permission=None, credential=None)


@pytest.mark.parametrize(
    ("said", "made", "kind"),
    [
        (ALLOWED, ALLOW, None),
        (DENIED, DENY, None),
        (DENIED, ALLOW, "would-deny"),
        (ALLOWED, DENY, "would-allow"),
        ({**DENIED, "reasons": ["unknown-caller"]}, DENY, "other-reasons"),
        (EvaluationFailed("two rules conflict"), ALLOW, "would-deny"),
        (EvaluationFailed("two rules conflict"), DENY, "other-reasons"),
        ({**ALLOWED, "permission": None}, DENY, "other-reasons"),
    ],
)
async def test_what_the_candidate_would_do_is_told(said: Any, made: Decision, kind: Any) -> None:
    facts = (await shown(Candidate(said), made)).facts()
    expected = () if kind is None else ((Difference(kind, "web", "orders", "get-order"), 1),)
    assert (facts.compared, facts.differences) == (1, expected)


async def test_nothing_that_was_predicted_is_put_to_it() -> None:
    candidate = Candidate(ALLOWED)
    await shown(candidate, ALLOW)
    assert "endpoint" not in candidate.asked[0]["resource"]["properties"]


async def test_a_full_queue_drops_and_nobody_waits() -> None:
    candidate = Candidate(ALLOWED)
    candidate.hold.clear()
    comparison = Comparison(policy=candidate, sample=1, clock=SystemClock(), room=40)
    authorizer = ComparingAuthorizer(authorizer=ScriptedAuthorizer([ALLOW] * 100), comparison=comparison)
    await comparison.start()
    async with asyncio.timeout(5):
        for _ in range(100):
            assert await authorizer.decide(request()) is ALLOW
    assert comparison.facts().dropped == comparison.facts().results["dropped"] >= 100 - 40 - 32
    await comparison.close()


async def test_a_candidate_that_is_not_there_is_asked_again_later() -> None:
    facts = (await shown(Candidate(PolicyUnavailable("OPA cannot be asked")), ALLOW)).facts()
    assert (facts.unanswered, facts.compared, facts.differences) == (1, 0, ())
    assert facts.results == {"unanswered": 1}


async def test_only_a_sample_is_compared() -> None:
    drawn = iter([0.1, 0.5, 0.49, 0.9])
    candidate = Candidate(DENIED)
    comparison = Comparison(policy=candidate, sample=0.5, clock=SystemClock(), drawn=lambda: next(drawn))
    await comparison.start()
    for _ in range(4):
        comparison.offer(request(), ALLOW)
    await until(lambda: comparison.facts().compared == 2)
    await comparison.close()
    assert len(candidate.asked) == 2


async def test_another_candidate_is_counted_anew() -> None:
    candidate = Candidate(DENIED)
    comparison = await shown(candidate, ALLOW, ALLOW)
    assert comparison.facts().differences == ((Difference("would-deny", "web", "orders", "get-order"), 2),)
    candidate.said, candidate.revision = ALLOWED, f"8-{REVISION.partition('-')[2]}"
    await comparison.start()
    comparison.offer(request(), ALLOW)
    await until(lambda: comparison.facts().revision == candidate.revision)
    await comparison.close()
    assert (comparison.facts().compared, comparison.facts().differences) == (1, ())
    assert comparison.facts().results == {"would-deny": 2, "same": 1}  # a counter's, so that it only grows


async def test_differences_do_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    await shown(Candidate(DENIED), *[ALLOW] * 300)
    lines = [each.message for each in caplog.records if each.name == "ostiary.candidate"]
    assert 5 <= len(lines) <= 20
    assert lines[0].endswith(
        " would deny: GET /orders/42 of orders, by web of https://idp.test from 10.0.0.7 (permission-missing)"
    )
