"""Counts what is not enforced: requests that are let through because their service is only observed, and those that a
shadow permission would have allowed."""

from __future__ import annotations

from dataclasses import dataclass

from ostiary.interfaces import Authorizer
from ostiary.models import AccessRequest, Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class UnenforcedFacts:
    """Decisions since the start. `observed` let their request through although no permission does; `shadowed` name a
    shadow permission that would have. One may be both."""

    observed: int
    shadowed: int


class CountingAuthorizer:
    """Counts what another authorizer decides; stands before the cache, so that every request counts."""

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer
        self._observed = self._shadowed = 0

    def facts(self) -> UnenforcedFacts:
        return UnenforcedFacts(observed=self._observed, shadowed=self._shadowed)

    async def decide(self, request: AccessRequest) -> Decision:
        decision = await self._authorizer.decide(request)
        if decision.observed and decision.allow is True:
            self._observed += 1
        if decision.shadow is not None:
            self._shadowed += 1
        return decision
