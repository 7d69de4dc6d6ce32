"""The authorizer that asks the policy engine about every request."""

from __future__ import annotations

from dataclasses import replace

from ostiary.decision.contract import parse_decision
from ostiary.decision.horizon import PolicyHorizon
from ostiary.decision.query import PolicyQuery
from ostiary.decision.staleness import StalenessLimit
from ostiary.errors import PolicyUnavailable, RouteMismatch
from ostiary.models import AccessRequest, Decision


class OpaAuthorizer:
    """Implements `interfaces.Authorizer`. Rego is the sole authority: nothing here turns a no into a yes.

    An allow is believed only if its bundle is the one that counts (`horizon`), and only while that is not too old.
    Denials are passed on whatever bundle they are from.

    A prediction that Rego refuses is a bug of one of the two matchers, and ends predictions for that bundle. Where the
    answer is of another bundle than the prediction, nobody is wrong: the question is asked again without it.
    """

    def __init__(self, *, policy: PolicyQuery, staleness: StalenessLimit, horizon: PolicyHorizon) -> None:
        self._policy = policy
        self._staleness = staleness
        self._horizon = horizon

    async def decide(self, request: AccessRequest) -> Decision:
        """The policy's decision; `PolicyUnavailable` or `PolicyStale` (503) where there is none to be believed."""
        decision = await self._ask(request)
        if request.revision is None:
            return decision
        if decision.revision != request.revision:
            if _mismatched(decision):
                return await self._ask(replace(request, endpoint=None, revision=None))
        elif _mismatched(decision) or (request.endpoint is None and decision.endpoint is not None):
            predicted = request.endpoint or "no endpoint"
            where = f"{request.method} {request.target.path} of {request.target.service}"
            self._horizon.distrust(request.revision, f"{predicted} was predicted for {where}, and the policy disagrees")
        return decision

    async def _ask(self, request: AccessRequest) -> Decision:
        horizon = self._horizon
        # Taken before asking: an answer that was under way while a newer bundle became active is no rollback.
        known, changes = horizon.latest, horizon.changes
        answer = await self._policy.query(request.document())
        revision = horizon.saw(answer.revision, asked=changes)
        decision = parse_decision(answer, request)
        if decision.allow is not True:
            return decision
        if revision is None:
            raise PolicyUnavailable("the revision of the bundle is not a sequence and a digest")
        if not await self._horizon.believes(revision, known=known):
            raise PolicyUnavailable(f"the bundle {revision} does not follow {known}, which was active before")
        self._staleness.check(decision.revision)
        return decision


def _mismatched(decision: Decision) -> bool:
    return RouteMismatch.reason in decision.reasons
