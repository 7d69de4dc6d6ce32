"""Refusals as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import orjson

from ostiary.errors import AccessDenied, AccessError, ClientDisconnected, Unauthenticated
from ostiary.exchange import Exchange, Header

_PROBLEM: Final[Header] = (b"content-type", b"application/problem+json")
_NO_STORE: Final[Header] = (b"cache-control", b"no-store")

# RFC 6750 section 3: no error code when no credential came; one code, and no more, for a bad one.
_CHALLENGES: Final[dict[str, bytes]] = {
    "identity-missing": b'Bearer realm="ostiary"',
    "identity-invalid": b'Bearer realm="ostiary", error="invalid_token"',
}


class Problems:
    """Renders refusals. With `detail="minimal"` a client learns status and id; the reasons stay in the audit."""

    def __init__(self, *, detail: Literal["full", "minimal"] = "full") -> None:
        self._full = detail == "full"

    def headers(self, refusal: AccessError) -> list[Header]:
        headers = [_PROBLEM, _NO_STORE]
        if isinstance(refusal, Unauthenticated):
            headers.append((b"www-authenticate", _CHALLENGES[refusal.reason]))
        if refusal.retry_after is not None:
            headers.append((b"retry-after", str(refusal.retry_after).encode()))
        if refusal.closes:
            headers.append((b"connection", b"close"))
        return headers

    def body(self, refusal: AccessError, exchange_id: str, requestable: Mapping[str, Any] | None = None) -> bytes:
        """The document. Its `reasons` are all of the refusal's; `requestable` tells how a denial can be lifted."""
        document: dict[str, Any] = {"type": "about:blank", "status": refusal.status, "decision_id": exchange_id}
        if self._full:
            document["title"] = refusal.sentence
            document["reasons"] = list(refusal.reasons)
            if requestable is not None and isinstance(refusal, AccessDenied):
                document["requestable"] = dict(requestable)
        return orjson.dumps(document)

    async def answer(
        self, exchange: Exchange, refusal: AccessError, requestable: Mapping[str, Any] | None = None
    ) -> None:
        """Refuse the exchange. Once headers are out nothing can be said: leaving it incomplete aborts it."""
        if exchange.response_started or isinstance(refusal, ClientDisconnected):
            return
        headers = self.headers(refusal)
        if not exchange.body_complete and not refusal.closes and _has_body(exchange):
            headers.append((b"connection", b"close"))  # the rest of the body is not going to be read
        await exchange.respond(refusal.status, headers, self.body(refusal, exchange.id, requestable))


def _has_body(exchange: Exchange) -> bool:
    return any(
        (name == b"content-length" and value != b"0") or name == b"transfer-encoding"
        for name, value in exchange.headers
    )
