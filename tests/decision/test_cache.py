"""The decision cache, rule by rule. That it answers as the policy would is `test_cache_soundness.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ostiary.decision.cache import CachingAuthorizer
from ostiary.decision.contract import parse_decision
from ostiary.decision.horizon import PolicyHorizon
from ostiary.decision.query import Answer
from ostiary.decision.staleness import StalenessLimit
from ostiary.errors import AccessError, PolicyUnavailable, TooManyDecisions
from ostiary.models import AccessRequest, CachePolicy, Decision, Grant
from support.audit import decision
from support.opa import ALLOWED, DENIED, NOW, request

REVISION = "7-a"
GRANT = Grant(
    id="g-1",
    caller="support",
    issuer="https://idp.test",
    subject="web",
    service="orders",
    endpoints=("get-order",),
    expires_at=NOW + 2,
)


class Policy:
    """An `Authorizer` that answers with what it is set to, once its gate is open; `asked` keeps the requests."""

    def __init__(self) -> None:
        self.asked: list[AccessRequest] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.answer: Callable[[AccessRequest], Decision | AccessError] = lambda _: answer()

    async def decide(self, request: AccessRequest) -> Decision:
        self.asked.append(request)
        await self.gate.wait()
        found = self.answer(request)
        if isinstance(found, AccessError):
            raise found
        return found


class Aged:
    """A `Freshness`: every bundle is this old."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def age(self, revision: str) -> float:
        return self.seconds


class Stage:
    """A cache over a scripted policy."""

    def __init__(self, **bounds: int) -> None:
        self.policy, self.horizon, self.aged = Policy(), PolicyHorizon(), Aged()
        self.horizon.saw(REVISION, asked=0)
        self.cache = CachingAuthorizer(
            authorizer=self.policy,
            horizon=self.horizon,
            staleness=StalenessLimit(freshness=self.aged, most=60),
            **bounds,
        )

    async def decide(self, *requests: AccessRequest) -> list[bool]:
        """Whether each answer came from the cache."""
        return [(await self.cache.decide(one)).cached for one in requests]

    async def together(self, *requests: AccessRequest) -> list[Any]:
        """What comes of each, where all have asked before the policy answers."""
        self.policy.gate.clear()
        deciding = [asyncio.create_task(self.cache.decide(one)) for one in requests]
        await asyncio.sleep(0)
        self.policy.gate.set()
        return await asyncio.gather(*deciding, return_exceptions=True)


def answer(*vary: str, max_age: int = 5, **changes: Any) -> Decision:
    return decision(revision=REVISION, cache=CachePolicy(max_age=max_age, vary=vary), **changes)


def denied(*vary: str, **changes: Any) -> Decision:
    return answer(*vary, allow=False, reasons=("permission-missing",), permission=None, credential=None, **changes)


def asked(path: str = "/orders/42", *, later: int = 0, ends: int = 600, **changes: Any) -> AccessRequest:
    base = request(endpoint="get-order")
    target = replace(base.target, path=path, segments=tuple(path[1:].split("/")))
    identity = replace(base.identity, expires_at=NOW + ends)
    fields = {"target": target, "identity": identity, "time": NOW + later, "revision": REVISION}
    return replace(base, **{**fields, **changes})


async def test_an_answer_is_used_again_and_says_so() -> None:
    stage = Stage()
    first, again = [await stage.cache.decide(asked()) for _ in range(2)]
    assert (first, again) == (answer(), replace(answer(), cached=True))
    assert len(stage.policy.asked) == 1
    assert (stage.cache.facts().hits, stage.cache.facts().misses, stage.cache.facts().allows) == (1, 1, 1)


async def test_a_denial_is_used_again_too() -> None:
    stage = Stage()
    stage.policy.answer = lambda _: denied()
    assert await stage.decide(asked(), asked()) == [False, True]
    assert stage.cache.facts().denials == 1


async def test_the_endpoint_stands_for_the_path_where_nothing_else_is_named() -> None:
    stage = Stage()
    assert await stage.decide(asked("/orders/1"), asked("/orders/2")) == [False, True]


CHANGED = {
    "issuer": lambda one: replace(one, identity=replace(one.identity, issuer="https://other.test")),
    "subject": lambda one: replace(one, identity=replace(one.identity, subject="ann")),
    "method of proof": lambda one: replace(one, identity=replace(one.identity, method="jwt-svid")),
    "actor": lambda one: replace(one, identity=replace(one.identity, actor={"id": "mesh"})),
    "claims": lambda one: replace(one, identity=replace(one.identity, claims={"tenant": "acme"})),
    "service": lambda one: replace(one, target=replace(one.target, service="billing")),
    "method": lambda one: replace(one, method="HEAD"),
    "endpoint": lambda one: replace(one, endpoint="other"),
    "grants": lambda one: replace(one, grants=(GRANT,)),
    "a version of a grant": lambda one: replace(one, grants=(replace(GRANT, endpoints=("other",)),)),
}


@pytest.mark.parametrize("what", CHANGED)
async def test_each_thing_that_is_in_every_key_makes_another_one(what: str) -> None:
    stage = Stage()
    base = asked(grants=(GRANT,)) if what == "a version of a grant" else asked()
    assert await stage.decide(base, CHANGED[what](base), base) == [False, False, True]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("source_ip", {"source_ip": "192.0.2.1"}),
        ("query", {"target": replace(asked().target, query="a=1", pairs=(("a", "1"),))}),
        ("query", {"target": replace(asked().target, query="a+b", pairs=None)}),
        ("segments", {"target": asked("/orders/7").target}),
    ],
)
async def test_what_vary_names_makes_another_key_and_what_it_does_not_makes_none(
    name: str, change: dict[str, Any]
) -> None:
    stage = Stage()
    stage.policy.answer = lambda _: answer(name)
    assert await stage.decide(asked(), asked(**change), asked(), asked(**change)) == [False, False, True, True]
    other = Stage()
    assert await other.decide(asked(), asked(**change)) == [False, True]


async def test_claims_that_python_takes_for_equal_are_not() -> None:
    stage = Stage()
    one = asked()
    values: list[Any] = [1, True, 1.0, "1", [1]]
    requests = [replace(one, identity=replace(one.identity, claims={"level": value})) for value in values]
    assert await stage.decide(*requests, *requests) == [False] * 5 + [True] * 5


@pytest.mark.parametrize(
    ("request_changes", "answer_changes", "lives"),
    [
        ({}, {}, 5),
        ({}, {"max_age": 2}, 2),
        ({"ends": 3}, {}, 3),
        ({"grants": (GRANT,)}, {}, 2),
        ({"grants": (replace(GRANT, expires_at=NOW),)}, {}, 5),  # it had ended, and will not end again
        ({}, {"expires_at": NOW + 4}, 4),
    ],
)
async def test_an_entry_ends_with_the_first_thing_that_ends(
    request_changes: dict[str, Any], answer_changes: dict[str, Any], lives: int
) -> None:
    stage = Stage()
    stage.policy.answer = lambda _: answer(**answer_changes)
    found = await stage.decide(*(asked(later=later, **request_changes) for later in range(lives + 1)))
    assert found == [False] + [True] * (lives - 1) + [False]


@pytest.mark.parametrize(("age", "lives"), [(0, 5), (58, 2), (58.9, 1), (59.5, 0), (61, 0), (float("nan"), 0)])
async def test_an_entry_ends_when_its_bundle_becomes_too_old(age: float, lives: int) -> None:
    stage = Stage()
    stage.aged.seconds = age
    await stage.decide(asked())
    assert await stage.decide(*(asked(later=later) for later in range(lives)), asked(later=lives)) == (
        [True] * lives + [False]
    )


async def test_a_request_of_before_the_question_is_not_answered_by_it() -> None:
    stage = Stage()
    assert await stage.decide(asked(later=3), asked(later=2), asked(later=3)) == [False, False, True]


@pytest.mark.parametrize(
    "given",
    [
        answer(max_age=0),
        replace(answer(), revision="8-b"),
        replace(answer(), revision=""),
        answer(expires_at=NOW),
    ],
)
async def test_an_answer_that_is_not_for_others_is_not_kept(given: Decision) -> None:
    stage = Stage()
    stage.policy.answer = lambda _: given
    assert await stage.decide(asked(), asked()) == [False, False]


@pytest.mark.parametrize("revision", [None, "6-z", "8-b"])
async def test_a_request_without_a_prediction_of_the_bundle_that_counts_is_asked(revision: str | None) -> None:
    stage = Stage()
    await stage.decide(asked())
    assert await stage.decide(asked(revision=revision), asked(revision=revision)) == [False, False]


async def test_another_bundle_empties_the_cache() -> None:
    stage = Stage()
    await stage.decide(asked())
    stage.horizon.saw("7-b", asked=stage.horizon.changes)
    stage.horizon.saw("7-a", asked=stage.horizon.changes)  # and back
    assert await stage.decide(asked()) == [True]  # nobody asked in between: it is the same bundle
    stage.horizon.saw("7-b", asked=stage.horizon.changes)
    await stage.decide(asked(revision="7-b"))
    stage.horizon.saw("7-a", asked=stage.horizon.changes)
    assert await stage.decide(asked()) == [False]


async def test_an_answer_that_comes_after_its_bundle_is_not_kept() -> None:
    stage = Stage()
    stage.policy.gate.clear()
    deciding = [asyncio.create_task(stage.cache.decide(asked())) for _ in range(3)]
    await asyncio.sleep(0)
    stage.horizon.saw("8-b", asked=stage.horizon.changes)
    stage.policy.gate.set()
    found = await asyncio.gather(*deciding)
    assert [one.cached for one in found] == [False] * 3
    assert (len(stage.policy.asked), stage.cache.facts().allows) == (3, 0)


@pytest.mark.parametrize("error", [PolicyUnavailable("OPA is gone"), TooManyDecisions("128 are under way")])
async def test_an_error_is_not_kept_and_is_one_for_each_who_waited(error: AccessError) -> None:
    stage = Stage()
    stage.policy.answer = lambda _: error
    outcomes = await stage.together(*[asked()] * 3)
    assert [(type(one), str(one)) for one in outcomes] == [(type(error), str(error))] * 3
    assert len({id(one) for one in outcomes}) == 3
    assert len(stage.policy.asked) == 1
    stage.policy.answer = lambda _: answer()
    assert await stage.decide(asked(), asked()) == [False, True]


async def test_requests_that_miss_together_wait_for_one_question() -> None:
    stage = Stage()
    requests = [asked(), asked(), asked("/orders/7"), asked(source_ip="192.0.2.1"), asked(), asked("/orders/7")]
    found = await stage.together(*requests)
    assert [one.cached for one in found] == [False, True, False, False, True, True]
    assert stage.policy.asked == [requests[0], requests[2], requests[3]]
    assert stage.cache.facts().shared == 3


async def test_who_waits_is_not_given_an_answer_that_has_ended_for_it() -> None:
    stage = Stage()
    stage.policy.answer = lambda _: answer(max_age=1)
    found = await stage.together(asked(), asked(later=1))
    assert [one.cached for one in found] == [False, False]
    assert len(stage.policy.asked) == 2


async def test_who_asks_may_go_without_taking_the_others_along() -> None:
    stage = Stage()
    stage.policy.gate.clear()
    first, *others = [asyncio.create_task(stage.cache.decide(asked())) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    others[0].cancel()
    await asyncio.sleep(0)
    stage.policy.gate.set()
    outcomes = await asyncio.gather(first, *others, return_exceptions=True)
    assert [type(one) for one in outcomes] == [asyncio.CancelledError, asyncio.CancelledError, Decision]
    assert await stage.decide(asked()) == [True]


async def test_a_flood_of_denied_requests_pushes_out_nothing_that_is_allowed() -> None:
    stage = Stage(allows=4, denials=4, per_identity=4)
    await stage.decide(asked())
    stage.policy.answer = lambda _: denied("segments")
    flood = [asked(f"/orders/{number}", endpoint="other") for number in range(50)]
    await stage.decide(*flood)
    assert await stage.decide(asked()) == [True]
    assert (stage.cache.facts().allows, stage.cache.facts().denials) == (1, 1)  # a tenth of them for one identity


async def test_one_identity_does_not_fill_the_cache() -> None:
    stage = Stage(allows=10, denials=10, per_identity=2)
    stage.policy.answer = lambda _: answer("segments")
    other = replace(asked().identity, subject="other")
    await stage.decide(asked(identity=other), *(asked(f"/orders/{number}") for number in range(20)))
    assert stage.cache.facts().allows == 3
    assert await stage.decide(asked(identity=other)) == [True]


DOUBTS = {
    "an unknown name": ([answer("header")], "answers depend on header, which is not known here"),
    "two lists": (
        [answer("source_ip"), answer("query", "source_ip")],
        "answers to one question depend on source_ip and on query, source_ip",
    ),
    "a list where there was none": (
        [answer(), answer("query")],
        "answers to one question depend on nothing and on query",
    ),
    "none where there was a list": (
        [answer("query"), answer()],
        "answers to one question depend on query and on nothing",
    ),
}


@pytest.mark.parametrize("doubt", DOUBTS)
async def test_a_policy_that_contradicts_itself_is_not_cached_any_more(
    doubt: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage()
    answers, said = DOUBTS[doubt]
    script = iter(answers)
    stage.policy.answer = lambda _: next(script)
    requests = [asked(later=5 * number) for number in range(len(answers))]  # the one before has ended each time
    assert await stage.decide(*requests) == [False] * len(answers)
    stage.policy.answer = lambda _: answer()
    assert await stage.decide(asked(), asked()) == [False, False]
    assert stage.horizon.current is None
    assert said in caplog.text


async def until_checked(stage: Stage, one: AccessRequest) -> None:
    """Hits, until one of them was asked again."""
    before = len(stage.policy.asked)
    for _ in range(2000):
        assert (await stage.cache.decide(one)).cached
        for _ in range(3):
            await asyncio.sleep(0)
        if len(stage.policy.asked) > before:
            return


async def test_a_hit_is_asked_again_now_and_then_as_of_its_entry() -> None:
    stage = Stage()
    await stage.decide(asked("/orders/1"))
    later = asked("/orders/2", later=3)
    await until_checked(stage, later)
    assert stage.policy.asked == [asked("/orders/1"), replace(later, time=NOW)]
    assert (stage.cache.facts().checked, stage.horizon.current) == (1, REVISION)


async def test_a_hit_that_was_not_the_policys_answer_ends_caching_loudly(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    await stage.decide(asked())
    stage.policy.answer = lambda _: denied()
    await until_checked(stage, asked())
    assert await stage.decide(asked(), asked()) == [False, False]
    assert stage.horizon.current is None
    assert (
        "a kept decision on GET of orders was not the policy's: allow, reasons, permission, credential" in caplog.text
    )


def said(result: dict[str, Any]) -> Decision:
    """What OPA said, as the authorizer understands it."""
    return parse_decision(Answer(defined=True, result=result, revision=REVISION), asked())


async def test_how_long_an_answer_may_be_kept_is_no_part_of_it() -> None:
    """It may depend on when it was asked for: on the seconds that are left until an hour ends."""
    for first, then in ((5, 1), (60, 40), (3, 40)):  # beyond five seconds, what was said is not what counts
        stage = Stage()
        answers = [said({**ALLOWED, "cache": {"max_age": age, "vary": []}}) for age in (first, then)]
        stage.policy.answer = lambda _: answers.pop(0) if len(answers) > 1 else answers[0]  # noqa: B023
        await stage.decide(asked())
        await until_checked(stage, asked())
        assert (stage.cache.facts().checked, stage.horizon.current) == (1, REVISION)


async def test_what_the_audit_records_of_an_answer_is_a_part_of_it(caplog: pytest.LogCaptureFixture) -> None:
    """Of a denial more is recorded than counts."""
    stage = Stage()
    stage.policy.answer = lambda _: said({**DENIED, "expires_at": "never"})
    await stage.decide(asked())
    stage.policy.answer = lambda _: said({**DENIED, "expires_at": "tomorrow"})
    await until_checked(stage, asked())
    assert stage.horizon.current is None
    assert "a kept decision on GET of orders was not the policy's: expires_at" in caplog.text


@pytest.mark.parametrize("given", [PolicyUnavailable("gone"), replace(denied(), revision="8-b"), answer(max_age=1)])
async def test_a_hit_that_cannot_be_compared_says_nothing(given: Decision | AccessError) -> None:
    stage = Stage()
    await stage.decide(asked())
    stage.policy.answer = lambda _: given
    await until_checked(stage, asked())
    assert await stage.decide(asked()) == [True]
