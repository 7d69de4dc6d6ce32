"""Three small upstream services. Each accepts nothing but a credential that the proxy minted for this very endpoint.

They answer with what they saw, and keep the last credential in a private file, so that the tour can try to misuse it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

import orjson
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ostiary.routes import METHODS
from ostiary.verify import Verifier, VerifyMiddleware

SERVICES: Final = ("orders", "billing", "reports")


def credential_file(directory: Path, service: str) -> Path:
    return directory / f"{service}.last-credential"


def service_application(service: str, *, verifier: Verifier, directory: Path) -> Starlette:
    """An upstream that echoes: `{service, request, caller, subject, endpoint, credential}`; credential is a digest."""

    async def echo(request: Request) -> Response:
        claims = request.scope["ostiary"]
        credential = request.headers["authorization"].removeprefix("Bearer ")
        _keep(credential_file(directory, service), credential)
        body = await request.body()
        seen = {
            "service": service,
            "request": f"{request.method} {request.url.path}",
            "caller": claims.caller,
            "subject": claims.subject,
            "endpoint": claims.endpoint,
            "credential": digest(credential),
            "received": len(body),
        }
        return Response(orjson.dumps(seen, option=orjson.OPT_APPEND_NEWLINE), media_type="application/json")

    return Starlette(
        routes=[Route("/{path:path}", echo, methods=sorted(METHODS))],
        middleware=[Middleware(VerifyMiddleware, verifier=verifier)],
    )


def digest(credential: str) -> str:
    """What may be shown of a credential: enough to tell two apart."""
    return "sha256:" + hashlib.sha256(credential.encode()).hexdigest()[:16]


def _keep(path: Path, credential: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
        file.write(credential)
