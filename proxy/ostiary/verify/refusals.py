"""Why a service does not serve a request. These are the service's refusals, not the proxy's: hence their own tree."""

from __future__ import annotations

from typing import ClassVar


class Refused(Exception):
    """The request did not come through the proxy, or not for this.

    `status` is the HTTP status, `title` what the client reads: the same for every cause. `detail` is for the service's
    log. It names what was wrong and holds nothing of the token.
    """

    status: ClassVar[int]
    title: ClassVar[str]
    challenge: ClassVar[str | None] = None
    """The `error` of the `WWW-Authenticate` header (RFC 6750 section 3.1), if there is one."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class CredentialMissing(Refused):
    """There is no bearer token."""

    status = 401
    title = "This service is reached through its access proxy."


class CredentialInvalid(Refused):
    """There is a bearer token, and it is not one of the proxy's for exactly this request."""

    status = 401
    title = "The credential is not valid for this request."
    challenge = "invalid_token"


class VerificationUnavailable(Refused):
    """Nothing can be said about the token now: there are no keys, or no room to remember single-use credentials."""

    status = 503
    title = "The credential cannot be verified at the moment."
