"""The authorizer that asks the policy engine about every request."""

from __future__ import annotations

from ostiary.decision.contract import parse_decision
from ostiary.decision.query import Freshness, PolicyQuery
from ostiary.decision.revision import Revision
from ostiary.errors import PolicyStale, PolicyUnavailable
from ostiary.models import AccessRequest, Decision


class OpaAuthorizer:
    """Implements `interfaces.Authorizer`. Rego is the sole authority: nothing here turns a no into a yes.

    An allow is believed only if its bundle is not older than one this process knew of when it asked (OPA itself accepts
    a rollback to an older signed bundle), and only while that bundle was known to be the published one within the last
    `max_policy_age` seconds. Denials are passed on whatever bundle they are from.
    """

    def __init__(self, *, policy: PolicyQuery, freshness: Freshness, max_policy_age: float) -> None:
        if max_policy_age <= 0:
            raise ValueError("max_policy_age is a number of seconds above 0")
        self._policy = policy
        self._freshness = freshness
        self._max_policy_age = max_policy_age
        self._latest: Revision | None = None

    async def decide(self, request: AccessRequest) -> Decision:
        """The policy's decision; `PolicyUnavailable` or `PolicyStale` (503) where there is none to be believed."""
        # Taken before asking: an answer that was under way while a newer bundle became active is no rollback.
        known = self._latest
        answer = await self._policy.query(request.document())
        revision = Revision.parse(answer.revision)
        if revision is not None and (self._latest is None or revision.sequence > self._latest.sequence):
            self._latest = revision
        decision = parse_decision(answer, request)
        if decision.allow is not True:
            return decision
        if revision is None:
            raise PolicyUnavailable("the revision of the bundle is not a sequence and a digest")
        if known is not None and not revision.may_follow(known):
            raise PolicyUnavailable(f"the bundle {revision} does not follow {known}, which was active before")
        age = self._freshness.age(decision.revision)
        if not age <= self._max_policy_age:  # so that an age which is not a number is too old
            raise PolicyStale(f"the bundle {revision} was last known to be current {age:.0f} s ago")
        return decision
