"""What the policy is asked about requests for access, and how much of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from ostiary.access import NoBlocklist
from ostiary.clock import ManualClock
from ostiary.decision.horizon import PolicyHorizon
from ostiary.decision.query import Answer
from ostiary.decision.staleness import StalenessLimit
from ostiary.errors import IdentityInvalid, TooManyDecisions
from ostiary.grants.blocklist import UnblockedPolicy
from ostiary.grants.policy import OpaAccessPolicy
from ostiary.models import AccessRequest, Decision, Json
from support.audit import decision, identity, request
from support.shipped import limited_authorizer

NOTHING = {"callers": ["web"], "eligible": [], "ruling": None}


class Opa:
    """Answers once it may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()

    async def about(self, document: Mapping[str, Json]) -> Answer:
        await self.may.wait()
        return Answer(defined=True, result=NOTHING, revision="7-abc")

    async def decide(self, request: AccessRequest) -> Decision:
        await self.may.wait()
        return decision()

    def age(self, revision: str) -> float:
        return 0.0


async def test_what_one_may_ask_is_asked_together_with_its_decisions() -> None:
    opa = Opa()
    limited = limited_authorizer(authorizer=opa, clock=ManualClock(), in_flight=4)
    staleness = StalenessLimit(freshness=opa, most=60)
    access = OpaAccessPolicy(opa=opa, staleness=staleness, horizon=PolicyHorizon(), admitted=limited.admitted)
    first, second = asyncio.create_task(limited.decide(request())), asyncio.create_task(access.about(request()))
    await asyncio.sleep(0)
    assert limited.in_flight == 2
    with pytest.raises(TooManyDecisions):
        await access.about(request())
    with pytest.raises(TooManyDecisions):
        await limited.decide(request())
    other = asyncio.create_task(access.about(request(proven=identity(subject="ann"))))
    opa.may.set()
    assert (await first).allow
    assert [about.actor.subject for about in await asyncio.gather(second, other)] == ["web", "ann"]
    assert limited.in_flight == 0


async def test_who_expires_while_they_say_what_they_want_gets_no_answer() -> None:
    """A body may be minutes late."""
    opa, clock = Opa(), ManualClock()
    opa.may.set()
    limited = limited_authorizer(authorizer=opa, clock=clock)
    staleness = StalenessLimit(freshness=opa, most=60)
    access = OpaAccessPolicy(opa=opa, staleness=staleness, horizon=PolicyHorizon(), admitted=limited.admitted)
    policy = UnblockedPolicy(access, NoBlocklist(), clock=clock)
    asked = request(proven=replace(identity(), expires_at=int(clock.now()) + 60, leeway=5))
    clock.advance(64)
    assert (await policy.about(asked)).actor.subject == "web"
    clock.advance(1)
    with pytest.raises(IdentityInvalid):
        await policy.about(asked)
