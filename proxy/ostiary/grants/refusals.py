"""What cannot be done with a request for access: one class, one status, one reason, one sentence for people.

A tree of its own: these answer whoever asks for access, approves or revokes. What stops a request on its way to a
service is in `ostiary.errors`, that the store cannot be reached (`GrantsUnavailable`) among it.

Where the AuthZEN Access Request and Approval profile has a type for one, it has that type, and the profile's status.
"""

from __future__ import annotations

from typing import ClassVar, Final

_PROFILE: Final = "urn:openid:authzen:access-request:error:"


class GrantRefused(Exception):
    """`type` is that of RFC 9457, `status` the HTTP status, `reason` a kebab-case constant. `detail` may be told to who
    asked. `retry_after`: it is not refused so many seconds later."""

    type: ClassVar[str] = "about:blank"
    status: ClassVar[int] = 409
    reason: ClassVar[str]
    sentence: ClassVar[str]

    def __init__(self, detail: str = "", *, retry_after: int | None = None) -> None:
        super().__init__(detail or self.sentence)
        self.detail = detail
        self.retry_after = retry_after


# 400: what was asked for is outside the eligibility, or not well-formed.


class BodyRefused(GrantRefused):
    status = 400
    reason = "body-malformed"
    sentence = "The request is not one of this API's."


class DurationRefused(GrantRefused):
    status = 400
    reason = "duration-refused"
    sentence = "The duration is not one that can be had."


class UsesRefused(GrantRefused):
    status = 400
    reason = "uses-refused"
    sentence = "The number of uses is not one that can be had."


class ReasonRequired(GrantRefused):
    status = 400
    reason = "reason-required"
    sentence = "This has to be given a reason."


class ReasonTooLong(GrantRefused):
    status = 400
    reason = "reason-too-long"
    sentence = "The reason is longer than it may be."


class EndpointsRefused(GrantRefused):
    status = 400
    reason = "endpoints-refused"
    sentence = "A request is for endpoints, each named once."


class NotEligible(GrantRefused):
    type = f"{_PROFILE}not_requestable"
    status = 400
    reason = "not-eligible"
    sentence = "The policy lets this identity ask for no such access."


class DenialUnbound(GrantRefused):
    type = f"{_PROFILE}invalid_denial_binding"
    status = 400
    reason = "denial-unbound"
    sentence = "The binding token is of no denial of this identity, or not of what is asked for."


class DenialExpired(GrantRefused):
    """Its time is up, or the bundle that denied is not the one that counts: who tries again gets another."""

    type = f"{_PROFILE}expired_denial"
    status = 410
    reason = "denial-expired"
    sentence = "The denial is too old to be asked about: try again, and ask with the new one."


# 403: who it is.


class EmergencyRefused(GrantRefused):
    status = 403
    reason = "emergency-refused"
    sentence = "There is no access to this in an emergency."


class OwnRequest(GrantRefused):
    status = 403
    reason = "own-request"
    sentence = "Nobody approves, extends or reviews their own."


class NotAnApprover(GrantRefused):
    status = 403
    reason = "not-an-approver"
    sentence = "This is for the approvers of the eligibility."


class NotTheHolder(GrantRefused):
    status = 403
    reason = "not-the-holder"
    sentence = "This is for the one who asked."


class NotAnOperator(GrantRefused):
    status = 403
    reason = "not-an-operator"
    sentence = "This is for the operators whom the permission map names."


# 404 and 409: what it is, and how it stands.


class GrantUnknown(GrantRefused):
    type = f"{_PROFILE}unknown_task"
    status = 404
    reason = "grant-unknown"
    sentence = "There is no such request or grant."


class BlockUnknown(GrantRefused):
    status = 404
    reason = "block-unknown"
    sentence = "There is no such block."


class StepUnknown(GrantRefused):
    status = 404
    reason = "step-unknown"
    sentence = "There is no such thing in this API."


class WrongState(GrantRefused):
    type = f"{_PROFILE}invalid_task_state"
    reason = "wrong-state"
    sentence = "This is not possible any more, or not yet."


class AlreadyApproved(GrantRefused):
    reason = "already-approved"
    sentence = "This person has approved it already: it takes another one."


class AskedOtherwise(GrantRefused):
    reason = "asked-otherwise"
    sentence = "What was approved is not what is asked for."


class OwnBlock(GrantRefused):
    reason = "own-block"
    sentence = "This would block whoever asks for it."


class KeyReused(GrantRefused):
    type = f"{_PROFILE}duplicate_request"
    reason = "idempotency-key-reused"
    sentence = "The idempotency key was used for another request."


class TimeSpent(GrantRefused):
    reason = "time-spent"
    sentence = "One person may not be granted more time in a day."


class TooManyAsked(GrantRefused):
    status = 429
    reason = "too-many-asked"
    sentence = "This identity has asked for access as often as it may in a day."


class TooManyOpen(GrantRefused):
    status = 429
    reason = "too-many-open"
    sentence = "This identity has too many requests that wait for approval, and grants."
