"""Refusals: one class, one status, one reason, one sentence for people.

Everything that stops a request is an `AccessError`. Foreign exceptions are translated into this tree at the edge
where they arise (`raise PolicyUnavailable("...") from error`); no library's exception reaches the pipeline.

The *detail* given to a refusal is for the audit and the log. A client sees the sentence and the reasons only.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType
from typing import ClassVar, Final

_registry: dict[str, type[AccessError]] = {}


class AccessError(Exception):
    """A refusal: the proxy answers this request itself.

    `status` is the HTTP status, `reason` the kebab-case constant, `sentence` what a person reads.
    `retry_after` is in whole seconds and becomes the header of that name.
    """

    status: ClassVar[int]
    reason: ClassVar[str]
    sentence: ClassVar[str]
    retry_after: ClassVar[int | None] = None
    closes: ClassVar[bool] = False
    """Whether the connection cannot carry another message after this refusal."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or self.sentence)
        self.detail = detail

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "reason" not in cls.__dict__:
            return  # an abstract node of the tree
        if cls.reason in _registry:
            raise TypeError(f"the reason {cls.reason!r} is defined twice")
        _registry[cls.reason] = cls

    @property
    def reasons(self) -> tuple[str, ...]:
        return (self.reason,)


REASONS: Final = MappingProxyType(_registry)
"""Every reason there is, by its name."""


# 400: what was sent is not one clean request (RFC 9112; SECURITY: refuse, don't repair).


class MalformedRequest(AccessError):
    status = 400
    closes = True


class MessageMalformed(MalformedRequest):
    reason = "message-malformed"
    sentence = "The message is not a well-formed HTTP/1.1 request."


class HandshakeFailed(MalformedRequest):
    """Never answered: there is no connection to answer on. Recorded all the same."""

    reason = "handshake-failed"
    sentence = "The TLS handshake did not succeed."


class TargetMalformed(MalformedRequest):
    reason = "target-malformed"
    sentence = "The request target is not in the one form that is accepted."


class HeaderDuplicated(MalformedRequest):
    reason = "header-duplicated"
    sentence = "A header that may occur once occurs more than once."


class HeaderMalformed(MalformedRequest):
    reason = "header-malformed"
    sentence = "A header is not well-formed."


class BodyNotAllowed(MalformedRequest):
    reason = "body-not-allowed"
    sentence = "This method carries no body."


class TokenInQuery(MalformedRequest):
    reason = "token-in-query"
    sentence = "Credentials are not accepted in the query."


class UpgradeRefused(MalformedRequest):
    reason = "upgrade-refused"
    sentence = "Upgrades (HTTP/2, gRPC and WebSocket among them) are not offered on this listener."


# 401: one body for every cause; the cause is in the audit (RFC 6750 section 3.1).


class Unauthenticated(AccessError):
    status = 401


class IdentityMissing(Unauthenticated):
    reason = "identity-missing"
    sentence = "This request carries no credential that this listener accepts."


class IdentityInvalid(Unauthenticated):
    reason = "identity-invalid"
    sentence = "The credential is not valid here."


# 403: policy said no. The reasons are Rego's; each has its class so that its sentence is written once.


class AccessDenied(AccessError):
    """OPA's answer was no. Carries all of the decision's reasons, each `name` or `name: text`."""

    status = 403

    def __init__(self, reasons: Iterable[str] = (), detail: str = "") -> None:
        super().__init__(detail)
        given = tuple(reasons)
        self._reasons = given or (self.reason,)

    @property
    def reasons(self) -> tuple[str, ...]:
        return self._reasons


class PolicyDenied(AccessDenied):
    reason = "policy-denied"
    sentence = "A rule of this organisation refuses the request."


class UnknownService(AccessDenied):
    reason = "unknown-service"
    sentence = "The policy knows no such service."


class UnknownEndpoint(AccessDenied):
    reason = "unknown-endpoint"
    sentence = "The service has no such endpoint, or not with this method."


class UnknownCaller(AccessDenied):
    reason = "unknown-caller"
    sentence = "The policy names no caller with this identity."


class PermissionMissing(AccessDenied):
    reason = "permission-missing"
    sentence = "No permission lets this caller use this endpoint."


class ConditionSource(AccessDenied):
    reason = "condition-source"
    sentence = "The permission does not hold from this network address."


class ConditionHours(AccessDenied):
    reason = "condition-hours"
    sentence = "The permission does not hold at this time."


class ConditionClaims(AccessDenied):
    reason = "condition-claims"
    sentence = "The identity lacks a claim that the permission demands."


class ConditionReadOnly(AccessDenied):
    reason = "condition-read-only"
    sentence = "The permission is for reading only."


class ConditionQuery(AccessDenied):
    reason = "condition-query"
    sentence = "The permission does not hold for these query parameters."


class ConditionPath(AccessDenied):
    reason = "condition-path"
    sentence = "The permission does not hold for this path."


class ConditionCustom(AccessDenied):
    reason = "condition-custom"
    sentence = "A condition of this organisation does not hold."


class GrantRequired(AccessDenied):
    reason = "grant-required"
    sentence = "This endpoint needs a grant, which can be requested."


class GrantExpired(AccessDenied):
    reason = "grant-expired"
    sentence = "The grant for this endpoint has ended."


class RouteMismatch(AccessDenied):
    reason = "route-mismatch"
    sentence = "Proxy and policy disagree about which endpoint this is."


class RequestMalformed(AccessDenied):
    reason = "request-malformed"
    sentence = "The policy was asked about something that is not a request."


# 403 as well, but the proxy's own: no policy is asked, so no policy can give it as a reason.


class OriginRefused(AccessError):
    status = 403
    reason = "origin-refused"
    sentence = "Pages of this origin may not use the service from a browser."


class IdentityBlocked(AccessError):
    status = 403
    reason = "identity-blocked"
    sentence = "This identity, or what proves it, is blocked."


# 405 to 431: limits, and what this listener does not do.


class MethodRefused(AccessError):
    status = 405
    reason = "method-refused"
    sentence = "This method is not accepted by the proxy."
    closes = True


class RequestTimeout(AccessError):
    status = 408
    reason = "request-timeout"
    sentence = "The request did not arrive in time."
    closes = True


class BodyTooLarge(AccessError):
    status = 413
    reason = "body-too-large"
    sentence = "The body is larger than the limit."
    closes = True


class TargetTooLong(AccessError):
    status = 414
    reason = "target-too-long"
    sentence = "The request target is longer than the limit."
    closes = True


class ExpectationFailed(AccessError):
    status = 417
    reason = "expectation-failed"
    sentence = "The only expectation that is met is 100-continue."
    closes = True


class HostUnknown(AccessError):
    status = 421
    reason = "host-unknown"
    sentence = "No service answers to this host here."


class TooManyDecisions(AccessError):
    status = 429
    reason = "too-many-decisions"
    sentence = "Too many decisions are in flight."
    retry_after = 1


class TooManyRequests(AccessError):
    status = 429
    reason = "too-many-requests"
    sentence = "This identity has too many requests to the service under way."
    retry_after = 1


class TooManyFailures(AccessError):
    status = 429
    reason = "too-many-failures"
    sentence = "Too many invalid credentials came from this address."
    retry_after = 1


class HeadersTooLarge(AccessError):
    status = 431
    reason = "headers-too-large"
    sentence = "The header section is larger than the limit."
    closes = True


# 500: ours.


class InternalError(AccessError):
    status = 500
    reason = "internal-error"
    sentence = "The proxy failed."


# 502 and 504: the upstream.


class UpstreamError(AccessError):
    """The upstream did not give an answer that can be relayed."""


class UpstreamFailed(UpstreamError):
    status = 502
    reason = "upstream-failed"
    sentence = "The service did not answer properly."


class UpstreamTimeout(UpstreamError):
    status = 504
    reason = "upstream-timeout"
    sentence = "The service did not answer in time."


# 503: a part that is needed to say yes is not there. Never cached, never an allow.


class Unavailable(AccessError):
    status = 503
    retry_after = 1


class PolicyUnavailable(Unavailable):
    reason = "policy-unavailable"
    sentence = "No decision can be made at the moment."


class PolicyStale(Unavailable):
    reason = "policy-stale"
    sentence = "The policy is older than it may be."


class CredentialUnavailable(Unavailable):
    reason = "credential-unavailable"
    sentence = "No credential for the service can be made at the moment."


class GrantsUnavailable(Unavailable):
    reason = "grants-unavailable"
    sentence = "The grants cannot be read or changed at the moment."


class BlocksUnknown(Unavailable):
    reason = "blocks-unknown"
    sentence = "It is not known yet who is blocked."


class AuditUnavailable(Unavailable):
    reason = "audit-unavailable"
    sentence = "The request cannot be recorded at the moment."


class Overloaded(Unavailable):
    reason = "overloaded"
    sentence = "The proxy is at its limit."


# Not answered: nobody is there to read it. Recorded all the same.


class ClientDisconnected(AccessError):
    status = 499
    reason = "client-disconnected"
    sentence = "The client went away."
    closes = True


class ConfigurationError(Exception):
    """A file that people write is wrong. `mistakes` are complete lines, `file:line: what is wrong`."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


def denial(reasons: Iterable[str], detail: str = "") -> AccessDenied:
    """The refusal for a decision that said no, led by its first reason.

    A reason the catalogue does not know, or none at all, is still a denial: `policy-denied`.
    """
    given = tuple(reasons)
    name = given[0].partition(":")[0] if given else PolicyDenied.reason
    cls = REASONS.get(name, PolicyDenied)
    return cls(given, detail) if issubclass(cls, AccessDenied) else PolicyDenied(given, detail)
