"""The life of a grant, as functions from one record to the next. No store, no clock, no policy: all of it is handed in.

    asked ─ pending ─┬─ active ─┬─ expired
                     │          ├─ used-up ─ revoked (for what is under way)
                     │          ├─ dropped (by its holder)
                     │          └─ revoked
                     └─ denied, cancelled, expired

Approved and active are one: the last approval that it takes begins the grant, so that its time does not run before
somebody can use it, nor wait. A rule of the organisation may approve or refuse in an approver's place (`Ruling`), and
an emergency is approved by whoever asks, at once, with a review that stays open until somebody else closes it.

*Separation of duties.* People are told apart by `(issuer, subject)` and by nothing else: who may act as three callers
is still one approver. Nobody approves, extends or reviews their own, whatever callers they are.

*What was asked stays asked.* A record never changes what it is for: who wants something else asks anew. An approval
names the digest of what was seen, so that nobody approves what they have not read.

*Extension.* The holder asks for one, or an approver proposes it; it takes as many approvers as the grant did, and no
rule and no emergency gives one. Its time runs from the last approval, and is at most the eligibility's longest.

*Time.* A step is never earlier than the one before it, whatever the clock says. What has ended stays so.

Each raises `GrantRefused` where something cannot be done.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from ostiary.grants.records import Actor, Asked, Extension, Kind, Record, State, Step, extension_digest
from ostiary.grants.refusals import (
    AlreadyApproved,
    AskedOtherwise,
    DurationRefused,
    EmergencyRefused,
    EndpointsRefused,
    NotAnApprover,
    NotTheHolder,
    OwnRequest,
    ReasonRequired,
    ReasonTooLong,
    UsesRefused,
    WrongState,
)
from ostiary.models import Owner

MAX_REASON: Final = 1000
"""Characters. A reason without a bound has filled others' logs (teleport 8.3.14)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What the organisation's rule says of a request: true approves, false refuses, None leaves it to the approvers."""

    approve: bool | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When a change happens: the store's time (Unix seconds) and its number for the change."""

    now: float
    change: int

    @property
    def second(self) -> int:
        return math.floor(self.now)


Transition: TypeAlias = Callable[[Record, Moment], Record]


def ask(
    asked: Asked,
    moment: Moment,
    *,
    id: str,
    patience: int,
    ruling: Ruling | None = None,
    idempotency_key: str | None = None,
) -> Record:
    """A new record. `patience` is how long it waits for approval, in seconds."""
    terms = asked.terms
    _check_reason(asked.reason, required=terms.reason_required)
    if asked.emergency and terms.emergency is None:
        raise EmergencyRefused
    longest = terms.emergency if asked.emergency and terms.emergency is not None else terms.max_duration
    if not 1 <= asked.duration <= longest:
        raise DurationRefused(f"from 1 to {longest} seconds, not {asked.duration}")
    if terms.max_uses is not None and asked.max_uses is None:
        asked = replace(asked, max_uses=terms.max_uses)
    if asked.max_uses is not None and not 1 <= asked.max_uses <= (terms.max_uses or asked.max_uses):
        raise UsesRefused(f"at most {terms.max_uses}" if terms.max_uses else "at least 1")
    if not asked.endpoints or len(set(asked.endpoints)) < len(asked.endpoints):
        raise EndpointsRefused
    record = Record(
        id=id,
        change=moment.change,
        asked=asked,
        digest=asked.digest,
        state="pending",
        steps=(),
        pending_until=moment.second + patience,
        idempotency_key=idempotency_key,
    )
    record = _step(record, moment, "requested", asked.owner, reason=asked.reason)
    if ruling is not None and ruling.approve is False:
        return _ended(_step(record, moment, "denied", None, reason=ruling.reason), moment, "denied")
    if asked.emergency:
        record = _step(record, moment, "approved", asked.owner, reason=asked.reason)
        return _activated(replace(record, review="open"), moment)
    if ruling is not None and ruling.approve is True and terms.auto_approve:
        return _activated(_step(record, moment, "approved", None, reason=ruling.reason), moment)
    return record


def approve(actor: Actor, *, digest: str, reason: str = "") -> Transition:
    """Approve the request, or the extension if one is asked for. `digest` is that of what was seen."""

    def transition(record: Record, moment: Moment) -> Record:
        record = _not_due(record, moment)
        caller = _approver(record, actor)
        _check_reason(reason)
        if record.state == "active" and record.extension is not None:
            return _approve_extension(record, moment, actor, caller, digest=digest, reason=reason)
        _expect(record, "pending")
        if digest != record.digest:
            raise AskedOtherwise
        if actor.owner in record.approved:
            raise AlreadyApproved
        record = _step(record, moment, "approved", actor.owner, caller=caller, reason=reason)
        record = replace(record, approved=(*record.approved, actor.owner))
        return _activated(record, moment) if len(record.approved) >= record.asked.terms.approvals else record

    return transition


def deny(actor: Actor, *, reason: str = "") -> Transition:
    """Refuse the request, or the extension if one is asked for. One approver is enough."""

    def transition(record: Record, moment: Moment) -> Record:
        record = _not_due(record, moment)
        caller = _approver(record, actor)
        _check_reason(reason)
        if record.state == "active" and record.extension is not None:
            record = _step(record, moment, "extension-denied", actor.owner, caller=caller, reason=reason)
            return replace(record, extension=None)
        _expect(record, "pending")
        return _ended(_step(record, moment, "denied", actor.owner, caller=caller, reason=reason), moment, "denied")

    return transition


def cancel(actor: Actor, *, reason: str = "") -> Transition:
    """Take back a request that is not answered yet."""

    def transition(record: Record, moment: Moment) -> Record:
        record = _not_due(record, moment)
        _holder(record, actor)
        _check_reason(reason)
        _expect(record, "pending")
        return _ended(_step(record, moment, "cancelled", actor.owner, reason=reason), moment, "cancelled")

    return transition


def extend(actor: Actor, *, duration: int, reason: str) -> Transition:
    """Ask for more time, as its holder; or propose it and be the first to approve it. `duration` is in seconds."""

    def transition(record: Record, moment: Moment) -> Record:
        record = _not_due(record, moment)
        caller = None if actor.owner == record.owner else _approver(record, actor)
        _check_reason(reason, required=record.asked.terms.reason_required)
        _expect(record, "active")
        if record.extension is not None:
            raise WrongState("an extension is asked for already")
        if not 1 <= duration <= record.asked.terms.max_duration:
            raise DurationRefused(f"from 1 to {record.asked.terms.max_duration} seconds, not {duration}")
        digest = extension_digest(record, duration=duration, reason=reason)
        extension = Extension(duration=duration, reason=reason, digest=digest)
        record = _step(record, moment, "extension-requested", actor.owner, caller=caller, reason=reason)
        record = replace(record, extension=extension)
        if caller is None:
            return record
        return _approve_extension(record, moment, actor, caller, digest=digest, reason=reason)

    return transition


def _approve_extension(
    record: Record, moment: Moment, actor: Actor, caller: str, *, digest: str, reason: str
) -> Record:
    extension = record.extension
    if extension is None or digest != extension.digest:
        raise AskedOtherwise
    if actor.owner in extension.approved:
        raise AlreadyApproved
    record = _step(record, moment, "extension-approved", actor.owner, caller=caller, reason=reason)
    approved = (*extension.approved, actor.owner)
    if len(approved) < record.asked.terms.approvals:
        return replace(record, extension=replace(extension, approved=approved))
    ends = max(moment.second + extension.duration, record.expires_at or 0)
    record = _step(record, moment, "extended", None, expires_at=ends)
    return replace(record, extension=None, expires_at=ends, confirmed_at=moment.second)


def drop(actor: Actor, *, reason: str = "") -> Transition:
    """Give a grant back before it ends."""

    def transition(record: Record, moment: Moment) -> Record:
        record = _not_due(record, moment)
        _holder(record, actor)
        _check_reason(reason)
        _expect(record, "active")
        return _ended(_step(record, moment, "dropped", actor.owner, reason=reason), moment, "dropped")

    return transition


def revoke(actor: Actor, *, reason: str) -> Transition:
    """Take a grant away, or end a request that waits. Whether the actor may, the policy says.

    One whose uses are used up can be taken away until its time is up: what its last use let through may go on.
    """

    def transition(record: Record, moment: Moment) -> Record:
        record = _not_due(record, moment)
        _check_reason(reason)
        if record.state != "used-up" or moment.second >= (record.expires_at or 0):
            _expect(record, "active", "pending")
        return _ended(_step(record, moment, "revoked", actor.owner, reason=reason), moment, "revoked")

    return transition


def use(record: Record, moment: Moment) -> Record:
    """Take one use. The last one ends the grant."""
    record = _not_due(record, moment)
    _expect(record, "active")
    left = record.uses_left
    if left is None:
        return record
    if left < 1:
        raise WrongState("no use is left")
    record = replace(record, uses=record.uses + 1)
    return record if left > 1 else _ended(_step(record, moment, "used-up", None), moment, "used-up")


def expire(record: Record, moment: Moment) -> Record:
    """End what is due; anything else stays as it is."""
    due = due_at(record)
    if due is None or moment.second < due:
        return record
    return _ended(_step(record, moment, "expired", None), moment, "expired")


def review(actor: Actor, *, reason: str) -> Transition:
    """Close the review of an emergency, also after the grant has ended."""

    def transition(record: Record, moment: Moment) -> Record:
        caller = _approver(record, actor)
        _check_reason(reason, required=True)
        if record.review != "open":
            raise WrongState("there is no review to close")
        record = _step(record, moment, "reviewed", actor.owner, caller=caller, reason=reason)
        return replace(record, review="closed")

    return transition


def due_at(record: Record) -> int | None:
    """The second in which time ends it, None if it has ended."""
    if record.state == "pending":
        return record.pending_until
    return record.expires_at if record.state == "active" else None


def over_at(record: Record) -> int | None:
    """The second from which nothing of it is to come: it has ended, and would have by itself; all of it is in the
    audit, and there is no review to close. None if that is not so."""
    if record.ended_at is None or record.recorded < len(record.steps) or record.review == "open":
        return None
    # A machine that has slept since before it was revoked must not find it gone, and go on by what it knows.
    return max(record.ended_at, record.expires_at or 0)


# What the transitions are made of.


def _step(
    record: Record,
    moment: Moment,
    kind: Kind,
    actor: Owner | None,
    *,
    caller: str | None = None,
    reason: str = "",
    expires_at: int | None = None,
) -> Record:
    before = record.steps[-1].time if record.steps else moment.now
    step = Step(
        kind=kind,
        time=round(max(before, moment.now), 3),
        change=moment.change,
        actor=actor,
        caller=caller,
        reason=reason,
        expires_at=expires_at,
    )
    return replace(record, change=moment.change, steps=(*record.steps, step))


def _activated(record: Record, moment: Moment) -> Record:
    begins, ends = moment.second, moment.second + record.asked.duration
    record = _step(record, moment, "activated", None, expires_at=ends)
    return replace(record, state="active", granted_at=begins, confirmed_at=begins, expires_at=ends)


def _ended(record: Record, moment: Moment, state: State) -> Record:
    ended_at = moment.second if record.ended_at is None else record.ended_at
    return replace(record, state=state, ended_at=ended_at, extension=None)


def _not_due(record: Record, moment: Moment) -> Record:
    """Time ends a record whether or not that has been written down yet."""
    return expire(record, moment)


def _expect(record: Record, *states: State) -> None:
    if record.state not in states:
        raise WrongState(f"it is {record.state}")


def _approver(record: Record, actor: Actor) -> str:
    """As which caller they approve. One's own is refused first: whoever asked may be an approver of others'."""
    if actor.owner == record.owner:
        raise OwnRequest
    callers = actor.callers.intersection(record.asked.terms.approvers)
    if not callers:
        raise NotAnApprover(f"approvers: {', '.join(record.asked.terms.approvers)}")
    return min(callers)


def _holder(record: Record, actor: Actor) -> None:
    if actor.owner != record.owner:
        raise NotTheHolder


def _check_reason(reason: str, *, required: bool = False) -> None:
    if len(reason) > MAX_REASON:
        raise ReasonTooLong(f"at most {MAX_REASON} characters")
    if required and not reason.strip():
        raise ReasonRequired
