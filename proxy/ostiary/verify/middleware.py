"""The ASGI middleware that a service puts around itself."""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Final

from ostiary.verify.refusals import CredentialInvalid, CredentialMissing, Refused, VerificationUnavailable
from ostiary.verify.verifier import Verifier

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send  # a service may run on another framework

_log: Final = logging.getLogger("ostiary.verify")
_QUOTABLE: Final = re.compile(r"[\x20-\x21\x23-\x5b\x5d-\x7e]+")  # RFC 9110 section 5.6.4, without what needs escaping


class VerifyMiddleware:
    """Lets through what the proxy sent and nothing else; `scope["ostiary"]` is then the `Claims`.

    Everything else is answered with a problem document (RFC 9457): 401 with `WWW-Authenticate`, or 503 while the
    proxy's keys cannot be had. The cause is in the log `ostiary.verify`. WebSockets are refused, lifespan passes.

    It must see the request as it arrived, so it goes outside of whatever rewrites paths or mounts applications.
    """

    def __init__(self, app: ASGIApp, verifier: Verifier) -> None:
        if not _QUOTABLE.fullmatch(verifier.audience):
            raise ValueError("the audience cannot be written into a header")
        self._app = app
        self._verifier = verifier

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            try:
                await self._app(scope, receive, send)
            finally:
                await self._verifier.aclose()
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: the client sees a 403
        else:
            raise ValueError(f"a scope of type {scope['type']!r} cannot be verified")

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A copy, taken now: uvicorn appends request trailers to its list, and they are no headers.
        headers = list(scope["headers"])
        try:
            claims = await self._verifier.verify(
                scope["method"],
                scope.get("raw_path") or b"",  # optional in ASGI; without it nothing can be compared, and "" is refused
                scope["query_string"],
                _authorization(headers),
            )
        except Refused as refusal:
            _log.info("%s %.256r is refused: %s", scope["method"], scope.get("raw_path"), refusal.detail)
            await self._refuse(refusal, scope, send)
            return
        await self._app({**scope, "headers": headers, "ostiary": claims}, receive, send)

    async def _refuse(self, refusal: Refused, scope: Scope, send: Send) -> None:
        body = json.dumps({"type": "about:blank", "status": refusal.status, "title": refusal.title}).encode() + b"\n"
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"cache-control", b"no-store"),
            (b"content-length", str(len(body)).encode()),
        ]
        if isinstance(refusal, VerificationUnavailable):
            headers.append((b"retry-after", b"1"))
        else:
            error = b"" if refusal.challenge is None else b', error="' + refusal.challenge.encode() + b'"'
            headers.append((b"www-authenticate", b'Bearer realm="' + self._verifier.audience.encode() + b'"' + error))
        await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _authorization(headers: list[tuple[bytes, bytes]]) -> bytes:
    found = [value for name, value in headers if name == b"authorization"]
    if not found:
        raise CredentialMissing("no authorization header")
    if len(found) > 1:
        raise CredentialInvalid("more than one authorization header")
    return found[0]
