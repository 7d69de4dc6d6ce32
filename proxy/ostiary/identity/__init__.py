"""The identity stage: who sends this request, proved by a bearer JWT (SECURITY: JWT; RFC 7519, RFC 8725).

`build_authenticator` makes an `Authenticator` from issuers' settings; `start` and `close` are the lifespan's.
"""

from __future__ import annotations

from ostiary.identity.composition import BearerAuthenticator, build_authenticator
from ostiary.identity.failures import FailureLimit
from ostiary.identity.jwks import KeyHealth
from ostiary.identity.settings import Discovery, IssuerSettings, JwksUrl, KeyFile, RefreshSettings

__all__ = [
    "BearerAuthenticator",
    "Discovery",
    "FailureLimit",
    "IssuerSettings",
    "JwksUrl",
    "KeyFile",
    "KeyHealth",
    "RefreshSettings",
    "build_authenticator",
]
