"""What the policy says of who asks for access, or answers. No decision is about it, so it is another question."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from ostiary.decision.horizon import PolicyHorizon
from ostiary.decision.query import Answer
from ostiary.decision.staleness import StalenessLimit
from ostiary.errors import PolicyUnavailable
from ostiary.grants.life import MAX_REASON, Ruling
from ostiary.grants.records import Actor, Terms
from ostiary.models import AccessRequest, Json, Owner

NOTHING: Final[Mapping[str, Json]] = {"service": "", "endpoints": []}


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Who it is; by caller the terms under which all that is asked for can be had; and what a rule says of it.
    `revision` is of the bundle that says so. `operator`: the map lets them block."""

    actor: Actor
    revision: str
    eligible: Mapping[str, Terms]
    ruling: Ruling | None = None
    operator: bool = False


class AccessPolicy(Protocol):
    async def about(self, request: AccessRequest, asked: Mapping[str, Json] = NOTHING) -> About:
        """Ask, with the `service` and `endpoints` that are asked for, and what else is said of it.

        Raises `PolicyUnavailable`, `PolicyStale`, and `TooManyDecisions` where this identity asks for too much.
        """


class AboutQuery(Protocol):
    """OPA, as far as it is asked here."""

    async def about(self, document: Mapping[str, Json]) -> Answer: ...


class OpaAccessPolicy:
    """Implements `AccessPolicy`: an answer counts if it is whole, and of the bundle that counts while it is trusted.

    `admitted` is open while OPA is asked for an identity: what one may ask is asked together with its decisions.
    """

    def __init__(
        self,
        *,
        opa: AboutQuery,
        staleness: StalenessLimit,
        horizon: PolicyHorizon,
        admitted: Callable[[Owner], AbstractContextManager[None]],
    ) -> None:
        self._opa = opa
        self._staleness = staleness
        self._horizon = horizon
        self._admitted = admitted

    async def about(self, request: AccessRequest, asked: Mapping[str, Json] = NOTHING) -> About:
        document = request.document() | {"access": dict(asked)}
        known, changes = self._horizon.latest, self._horizon.changes  # before asking, as for a decision
        with self._admitted(request.identity.owner):
            answer = await self._opa.about(document)
        revision = self._horizon.saw(answer.revision, asked=changes)
        if revision is None or not await self._horizon.believes(revision, known=known):
            raise PolicyUnavailable(f"the bundle {answer.revision} is not the one that counts")
        self._staleness.check(str(revision))
        identity = request.identity
        try:
            callers = frozenset(map(str, answer.result["callers"]))
            eligible = {str(found["caller"]): _terms(found) for found in answer.result["eligible"]}
            ruling = _ruling(answer.result["ruling"])
        except (KeyError, TypeError) as error:
            raise PolicyUnavailable("the policy does not say who may ask for access") from error
        actor = Actor(issuer=identity.issuer, subject=identity.subject, callers=callers)
        operator = answer.result.get("operator") is True  # a bundle of an earlier version names none
        return About(actor=actor, revision=str(revision), eligible=eligible, ruling=ruling, operator=operator)


def _terms(found: Mapping[str, Json]) -> Terms:
    return Terms(
        approvers=tuple(map(str, found["approvers"])),
        approvals=found["approvals"],
        max_duration=found["max_duration"],
        max_uses=found["max_uses"],
        reason_required=found["reason_required"],
        auto_approve=found["auto_approve"] is True,
        emergency=found["emergency"],
    )


def _ruling(said: Json) -> Ruling | None:
    """Raises `TypeError` for what is none: a rule that was meant to refuse must not be silently without effect."""
    if said is None:
        return None
    if not isinstance(said, dict) or not isinstance(said.get("approve"), bool):
        raise TypeError("policy.approve is no ruling")
    return Ruling(approve=said["approve"], reason=str(said.get("reason", ""))[:MAX_REASON])
