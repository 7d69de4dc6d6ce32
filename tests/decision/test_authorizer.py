"""The authorizer: rollback, age, limits. Its questions go to policies that are scripted here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from ostiary.clock import ManualClock
from ostiary.decision.authorizer import OpaAuthorizer
from ostiary.decision.horizon import PolicyHorizon
from ostiary.decision.query import Answer
from ostiary.decision.scripted import ScriptedAuthorizer, allow, deny
from ostiary.decision.staleness import StalenessLimit
from ostiary.errors import AccessError, PolicyStale, PolicyUnavailable, TooManyDecisions
from ostiary.models import AccessRequest, Decision
from support.opa import ALLOWED, DENIED, REVISION, answer, request
from support.shipped import limited_authorizer


class ScriptedPolicy:
    """A `PolicyQuery`: answers in order, a future among them when it is done."""

    def __init__(self, *answers: Answer | asyncio.Future[Answer]) -> None:
        self._answers = list(answers)
        self.asked: list[Mapping[str, Any]] = []

    async def query(self, document: Mapping[str, Any]) -> Answer:
        self.asked.append(document)
        given = self._answers.pop(0)
        return given if isinstance(given, Answer) else await given


class Aged:
    """A `Freshness`: every revision is this old."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def age(self, revision: str) -> float:
        return self.seconds


def authorizer(policy: ScriptedPolicy, age: float = 0.0) -> OpaAuthorizer:
    return OpaAuthorizer(policy=policy, staleness=StalenessLimit(freshness=Aged(age), most=60), horizon=PolicyHorizon())


def predicting(policy: ScriptedPolicy) -> tuple[OpaAuthorizer, PolicyHorizon]:
    horizon = PolicyHorizon()
    horizon.saw(REVISION, asked=0)
    staleness = StalenessLimit(freshness=Aged(), most=60)
    return OpaAuthorizer(policy=policy, staleness=staleness, horizon=horizon), horizon


MISMATCH = {**DENIED, "reasons": ["route-mismatch"], "endpoint": None}


async def test_a_prediction_that_the_policy_refuses_ends_predictions(caplog: pytest.LogCaptureFixture) -> None:
    """The request is refused: nothing here turns a no into a yes."""
    stage, horizon = predicting(ScriptedPolicy(answer(MISMATCH)))
    decision = await stage.decide(request(endpoint="get-order", revision=REVISION))
    assert (decision.allow, decision.reasons) == (False, ("route-mismatch",))
    assert horizon.current is None
    assert "get-order was predicted for GET /orders/42 of orders, and the policy disagrees" in caplog.text


async def test_an_endpoint_where_none_was_predicted_ends_predictions(caplog: pytest.LogCaptureFixture) -> None:
    """The policy's answer stands: it found the endpoint by itself."""
    stage, horizon = predicting(ScriptedPolicy(answer(ALLOWED)))
    assert (await stage.decide(request(revision=REVISION))).allow is True
    assert horizon.current is None
    assert "no endpoint was predicted for GET /orders/42" in caplog.text


async def test_a_prediction_of_another_bundle_is_left_out_and_asked_again() -> None:
    policy = ScriptedPolicy(answer(MISMATCH, revision="8-b"), answer(ALLOWED, revision="8-b"))
    stage, horizon = predicting(policy)
    predicted = request(endpoint="list", revision=REVISION)
    assert (await stage.decide(predicted)).allow is True
    assert policy.asked == [predicted.document(), request().document()]
    assert horizon.current == "8-b"


async def test_a_right_prediction_is_asked_once() -> None:
    policy = ScriptedPolicy(answer(ALLOWED), answer({**DENIED, "reasons": ["unknown-endpoint"], "endpoint": None}))
    stage, horizon = predicting(policy)
    assert (await stage.decide(request(endpoint="get-order", revision=REVISION))).allow is True
    assert (await stage.decide(request(revision=REVISION))).allow is False
    assert (len(policy.asked), horizon.current) == (2, REVISION)


async def test_an_announced_bundle_is_followed_by_no_older_one() -> None:
    """Announced before the question was put: what answers it has to be that bundle."""
    stage, horizon = predicting(ScriptedPolicy(answer(ALLOWED)))
    horizon.saw("8-b", asked=horizon.changes)
    with pytest.raises(PolicyUnavailable, match="does not follow 8-b"):
        await stage.decide(request())


async def test_the_question_is_the_request_and_nothing_else() -> None:
    policy = ScriptedPolicy(answer(ALLOWED))
    assert (await authorizer(policy).decide(request())).allow is True
    assert policy.asked == [request().document()]


async def test_an_older_bundle_than_one_already_seen_allows_nothing() -> None:
    """OPA accepts a rollback to an older signed bundle; the proxy does not."""
    stage = authorizer(ScriptedPolicy(answer(ALLOWED, revision="7-b"), answer(ALLOWED, revision="6-a")))
    assert (await stage.decide(request())).revision == "7-b"
    with pytest.raises(PolicyUnavailable, match="6-a does not follow 7-b"):
        await stage.decide(request())


async def test_a_denial_counts_as_having_seen_its_bundle() -> None:
    stage = authorizer(ScriptedPolicy(answer(DENIED, revision="7-b"), answer(ALLOWED, revision="6-a")))
    assert (await stage.decide(request())).allow is False
    with pytest.raises(PolicyUnavailable):
        await stage.decide(request())


async def test_two_bundles_with_one_sequence_may_follow_each_other() -> None:
    """As they do for who builds twice between two commits."""
    stage = authorizer(ScriptedPolicy(answer(ALLOWED, revision="7-a"), answer(ALLOWED, revision="7-b")))
    assert [(await stage.decide(request())).revision for _ in range(2)] == ["7-a", "7-b"]


async def test_an_older_bundle_denies_as_well_as_any() -> None:
    stage = authorizer(ScriptedPolicy(answer(ALLOWED, revision="7-b"), answer(DENIED, revision="6-a")))
    await stage.decide(request())
    assert (await stage.decide(request())).allow is False


async def test_an_answer_that_was_under_way_when_a_newer_bundle_came_is_no_rollback() -> None:
    slow: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    stage = authorizer(ScriptedPolicy(slow, answer(ALLOWED, revision="8-b")))
    first = asyncio.create_task(stage.decide(request()))
    await asyncio.sleep(0)
    assert (await stage.decide(request())).revision == "8-b"
    slow.set_result(answer(ALLOWED, revision="7-a"))
    assert (await first).revision == "7-a"


@pytest.mark.parametrize("age", [60.1, float("inf"), float("nan")])
async def test_a_bundle_older_than_its_limit_allows_nothing(age: float) -> None:
    with pytest.raises(PolicyStale) as refused:
        await authorizer(ScriptedPolicy(answer(ALLOWED)), age).decide(request())
    assert (refused.value.status, refused.value.reason) == (503, "policy-stale")


async def test_a_bundle_older_than_its_limit_still_denies() -> None:
    assert (await authorizer(ScriptedPolicy(answer(DENIED)), 61).decide(request())).allow is False


async def test_a_bundle_within_its_limit_is_trusted() -> None:
    assert (await authorizer(ScriptedPolicy(answer(ALLOWED)), 60).decide(request())).revision == REVISION


class Waiting:
    """An `Authorizer` that decides when it is told to."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def decide(self, request: AccessRequest) -> Decision:
        await self.gate.wait()
        return allow()(request)


async def test_more_decisions_than_may_be_under_way_are_refused_at_once() -> None:
    waiting = Waiting()
    stage = limited_authorizer(authorizer=waiting, clock=ManualClock(), in_flight=2)
    under_way = [asyncio.create_task(stage.decide(request(subject=name))) for name in ("web", "other")]
    await asyncio.sleep(0)
    with pytest.raises(TooManyDecisions) as refused:
        await stage.decide(request())
    assert (refused.value.status, refused.value.retry_after) == (429, 1)
    waiting.gate.set()
    assert [decision.allow for decision in await asyncio.gather(*under_way)] == [True, True]
    assert (await stage.decide(request())).allow is True


async def test_a_decision_that_fails_or_is_cancelled_gives_its_place_back() -> None:
    failing = limited_authorizer(authorizer=ScriptedAuthorizer([]), clock=ManualClock(), in_flight=1)
    for _ in range(3):
        with pytest.raises(PolicyUnavailable):
            await failing.decide(request())
    waiting = limited_authorizer(authorizer=Waiting(), clock=ManualClock(), in_flight=1)
    for _ in range(3):
        task = asyncio.create_task(waiting.decide(request()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_one_identity_cannot_ask_for_the_decisions_of_all() -> None:
    clock = ManualClock()
    inner = ScriptedAuthorizer([allow()], repeat=True)
    stage = limited_authorizer(authorizer=inner, clock=clock, rate=2, burst=3)
    for _ in range(3):
        await stage.decide(request())
    with pytest.raises(TooManyDecisions):
        await stage.decide(request())
    assert (await stage.decide(request(subject="other"))).allow is True
    clock.advance(1)
    await stage.decide(request())
    await stage.decide(request())
    with pytest.raises(TooManyDecisions):
        await stage.decide(request())


async def test_one_identity_cannot_have_all_the_places_for_decisions() -> None:
    stage = limited_authorizer(authorizer=Waiting(), clock=ManualClock(), in_flight=4)
    asked = [asyncio.create_task(stage.decide(request(subject=name))) for name in ("web", "web", "web", "other")]
    await asyncio.sleep(0)
    assert [task.done() for task in asked] == [False, False, True, False]
    with pytest.raises(TooManyDecisions):
        await asked[2]
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    again = asyncio.create_task(stage.decide(request()))
    await asyncio.sleep(0)
    assert not again.done()
    again.cancel()


async def test_a_script_is_spoken_line_by_line_and_then_refuses() -> None:
    refusal: AccessError = PolicyStale()
    stage = ScriptedAuthorizer([allow(caller="web"), deny("condition-hours"), refusal])
    first, second = await stage.decide(request()), await stage.decide(request())
    assert (first.allow, first.caller, first.service) == (True, "web", "orders")
    assert (second.allow, second.reasons) == (False, ("condition-hours",))
    with pytest.raises(PolicyStale):
        await stage.decide(request())
    with pytest.raises(PolicyUnavailable):
        await stage.decide(request())
    assert list(stage.asked) == [request()] * 4


async def test_a_scripted_allow_is_one_that_the_contract_accepts() -> None:
    scripted = allow(max_age=5, revision=REVISION)(request())
    policy = ScriptedPolicy(answer(scripted.document))
    assert await authorizer(policy).decide(request()) == scripted
