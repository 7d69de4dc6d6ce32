"""The identity stage: who sends this request, proved by a token or a certificate (SECURITY: JWT; RFC 7519, RFC 8725).

`build_authenticator` makes an `Authenticator` from issuers' settings; `start` and `close` are the lifespan's.
"""

from __future__ import annotations

from ostiary.identity.certificates import CertificateTrust
from ostiary.identity.composition import ListenerAuthenticator, build_authenticator
from ostiary.identity.dpop import DpopSettings
from ostiary.identity.failures import FailureLimit
from ostiary.identity.jwks import KeyHealth
from ostiary.identity.mtls import CertificateSource, MtlsAuthenticator
from ostiary.identity.replay import ReplayTable
from ostiary.identity.settings import Discovery, IssuerSettings, JwksUrl, KeyFile, RefreshSettings
from ostiary.identity.xfcc import XfccAuthenticator

__all__ = [
    "CertificateSource",
    "CertificateTrust",
    "Discovery",
    "DpopSettings",
    "FailureLimit",
    "IssuerSettings",
    "JwksUrl",
    "KeyFile",
    "KeyHealth",
    "ListenerAuthenticator",
    "MtlsAuthenticator",
    "RefreshSettings",
    "ReplayTable",
    "XfccAuthenticator",
    "build_authenticator",
]
