"""The demo's identity provider: one ES256 key, its JWKS over HTTP, and tokens on request. For the demo only."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

ISSUER: Final = "http://idp.localhost"
AUDIENCE: Final = "ostiary-demo"
KEY_FILE: Final = "issuer-key.pem"
_KEY_ID: Final = "demo-1"

IDENTITIES: Final[Mapping[str, Mapping[str, Any]]] = {
    "web": {},
    "reporting": {},
    "auditor": {},
    "ann": {"groups": ["support"]},
    "lee": {"groups": ["support-lead"]},
    "sam": {"groups": ["security"]},
}
"""Who the issuer knows, and the claims it vouches for."""


class DemoIssuer:
    """Signs tokens with the key in `directory`, which is made there (0600) if it is not."""

    def __init__(self, directory: Path) -> None:
        path = directory / KEY_FILE
        if not path.exists():
            _write_key(path)
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{path} is not the key of a demo issuer")
        self._key = key

    def token(self, subject: str, *, lifetime: int = 3600, **claims: Any) -> str:
        """A token for `subject` with the claims the issuer vouches for; `claims` override. `lifetime` in seconds."""
        now = int(time.time())
        payload = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "iat": now,
            "exp": now + lifetime,
            "jti": secrets.token_hex(8),
            **IDENTITIES.get(subject, {}),
            **claims,
        }
        return jwt.encode(payload, self._key, algorithm="ES256", headers={"kid": _KEY_ID, "typ": "JWT"})

    def jwks(self) -> dict[str, Any]:
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key()))
        return {"keys": [{**public, "kid": _KEY_ID, "alg": "ES256", "use": "sig"}]}

    def application(self) -> Starlette:
        async def jwks(_: Request) -> JSONResponse:
            return JSONResponse(self.jwks())

        return Starlette(routes=[Route("/jwks", jwks)])


def _write_key(path: Path) -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
