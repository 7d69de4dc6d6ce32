"""Requests for access in the words of the AuthZEN Access Request and Approval profile: what is submitted with a denial,
and the task that comes of it.

A task is a record of ours as the profile sees one, with the same id. Its statuses are those of the profile, and each is
an end but `pending`: what becomes of a grant after it was approved is told by the next decision, and by
`approved_until`. The approval is looked up here by who asks again, so it need not be sent along, and has no `state`.

What the profile lets one leave out is left out: several items in one request, and callbacks. What it has no word for is
`duration` (seconds) and `max_uses`, beside `requested_until` and `emergency` in `requested_access`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from ostiary.clock import written_instant
from ostiary.grants.bodies import Members, members, number, text, truth
from ostiary.grants.denials import TASKS, Denial
from ostiary.grants.records import Asked, Record, Terms
from ostiary.grants.refusals import BodyRefused, DenialUnbound
from ostiary.models import Json

SUBMITTED: Final = frozenset({"subject", "resource", "action", "context", "denial", "requested_access", "client"})
DEPTH: Final = 16
"""How deep a submission may be nested: a chain of actors is."""

_DENIAL: Final = frozenset({"evaluation_id", "evaluated_at", "expires_at", "reason", "binding_token", "template"})
_FIRST_LOOK: Final = 2
_LAST_LOOK: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked for by a denial. `duration` is in seconds; None where it was left out."""

    denial: Denial
    duration: int | None
    max_uses: int | None
    reason: str
    emergency: bool

    def document(self) -> dict[str, Json]:
        """As the policy is told of it. What was left out is not null: a rule could take that for little."""
        said = {"duration": self.duration, "max_uses": self.max_uses}
        return {
            "service": self.denial.service,
            "endpoints": [self.denial.endpoint],
            "caller": self.denial.caller,
            "reason": self.reason,
            "emergency": self.emergency,
        } | {name: value for name, value in said.items() if value is not None}

    def within(self, terms: Terms) -> Wanted:
        """With a duration: as long as can be had, where it was left out."""
        if self.duration is not None:
            return self
        longest = terms.emergency if self.emergency and terms.emergency is not None else terms.max_duration
        return replace(self, duration=longest)

    def is_that(self, record: Record) -> bool:
        """Whether it is what the record asks for."""
        kept = record.asked
        asked = self.within(kept.terms).asked(kept.terms)
        return kept == (asked if self.max_uses is not None else replace(asked, max_uses=kept.max_uses))

    def asked(self, terms: Terms) -> Asked:
        return Asked(
            issuer=self.denial.issuer,
            subject=self.denial.subject,
            caller=self.denial.caller,
            service=self.denial.service,
            endpoints=(self.denial.endpoint,),
            duration=self.duration or 0,
            max_uses=self.max_uses,
            reason=self.reason,
            emergency=self.emergency,
            denial=self.denial.id,
            terms=terms,
        )


def binding_token(body: Members) -> str:
    denial = members(body, "denial")
    if unknown := sorted(denial.keys() - _DENIAL):
        raise BodyRefused(f"unknown in denial: {', '.join(unknown)[:200]}; known: {', '.join(sorted(_DENIAL))}")
    token = denial.get("binding_token")
    if not isinstance(token, str):
        raise DenialUnbound("denial.binding_token is missing: a denial is not kept, and cannot be found by its id")
    return token


def wanted(body: Members, denial: Denial) -> Wanted:
    """Raises `BodyRefused`, and `DenialUnbound` if anything that is repeated of the denial is not what was denied.

    Of what the profile lets others add to, members that are not known are passed over, as it demands.
    """
    _compare(body, denial)
    if members(body, "client").get("actor") is not None:
        raise BodyRefused("client.actor: who asks is who was denied, and nobody asks for somebody else")
    access = members(body, "requested_access")
    return Wanted(
        denial=denial,
        duration=_duration(access, denial),
        max_uses=None if access.get("max_uses") is None else number(access, "max_uses"),
        reason=text(members(body, "context"), "business_justification", default=""),
        emergency=truth(access, "emergency"),
    )


def _compare(body: Members, denial: Denial) -> None:
    said = {
        "evaluation_id": denial.id,
        "evaluated_at": written_instant(denial.denied_at),
        "expires_at": written_instant(denial.expires_at),
    }
    repeated = members(body, "denial")
    differing = [f"denial.{name}" for name, value in said.items() if repeated.get(name, value) != value]
    differing += [name for name, value in denial.evaluated().items() if body.get(name, value) != value]
    if differing:
        raise DenialUnbound(f"not as it was denied: {', '.join(differing)}")


def _duration(access: Members, denial: Denial) -> int | None:
    until, duration = access.get("requested_until"), access.get("duration")
    if until is None:
        return None if duration is None else number(access, "duration")
    if duration is not None:
        raise BodyRefused("requested_access has a requested_until or a duration, not both")
    try:
        end = datetime.fromisoformat(text(access, "requested_until"))
    except ValueError:
        end = None
    if end is None or end.tzinfo is None:
        raise BodyRefused("requested_until is an instant such as 2026-12-24T00:00:00Z")
    # From the denial and not from now on, so that who asks again asks for the same.
    return math.floor(end.timestamp()) - denial.denied_at


def task(record: Record, *, origin: str) -> dict[str, Json]:
    """The task that a record is, with its result if it was approved."""
    status = status_of(record)
    address = f"{origin}{TASKS}/{record.id}"
    document: dict[str, Json] = {"id": record.id, "status": status, "status_endpoint": address}
    if status == "pending":
        terms = record.asked.terms
        document["expires_at"] = written_instant(record.pending_until)
        document["progress"] = {
            "current_step": min(len(record.approved) + 1, terms.approvals),
            "total_steps": terms.approvals,
            "awaiting": list(terms.approvers),
        }
        document["links"] = {"cancel": f"{address}/cancel"}
    if status != "approved":
        return {"task": document}
    return {"task": document, "result": {"mode": "reevaluate", "approval": _approval(record)}}


def status_of(record: Record) -> str:
    """The profile's word for how a record stands. Approved is what was, even if the grant has ended since."""
    if record.granted_at is not None:
        # What gives access counts once it is in the audit: until then who tries is refused.
        return "pending" if record.state == "active" and record.grant() is None else "approved"
    return "cancelled" if record.state == "revoked" else record.state


def _approval(record: Record) -> Mapping[str, Json]:
    until = record.expires_at if record.ended_at is None else record.ended_at
    return {
        "id": record.id,
        "approved_at": written_instant(record.granted_at or 0),
        "approved_until": written_instant(until or 0),
    }


def look_again(record: Record, *, now: int) -> int:
    """Seconds until it is worth to look again at what is pending: more, the longer it has been."""
    waited = now - math.floor(record.steps[0].time)
    return max(_FIRST_LOOK, min(_LAST_LOOK, waited // 10))
