"""What an upstream service imports, to serve what came through the proxy and nothing else.

    app = VerifyMiddleware(app, Verifier(issuer="https://ostiary.test", audience="orders",
                                         jwks_url="https://ostiary.test/.well-known/jwks.json"))

Checked are signature, issuer, audience, time, the endpoint's method and path template against the actual request, and
for per-call credentials the exact target and single use. Needs PyJWT with cryptography, and httpx where a `jwks_url` is
used; neither uvicorn nor pydantic.
"""

from ostiary.verify.jwks import RemoteKeys
from ostiary.verify.keys import KeySet, KeySource, VerificationKey
from ostiary.verify.middleware import VerifyMiddleware
from ostiary.verify.refusals import CredentialInvalid, CredentialMissing, Refused, VerificationUnavailable
from ostiary.verify.replay import MemoryReplayStore, ReplayStore
from ostiary.verify.token import Claims
from ostiary.verify.verifier import Verifier, verify_token

__all__ = [
    "Claims",
    "CredentialInvalid",
    "CredentialMissing",
    "KeySet",
    "KeySource",
    "MemoryReplayStore",
    "Refused",
    "RemoteKeys",
    "ReplayStore",
    "VerificationKey",
    "VerificationUnavailable",
    "Verifier",
    "VerifyMiddleware",
    "verify_token",
]
