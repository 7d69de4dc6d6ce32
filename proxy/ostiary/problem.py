"""Refusals as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import orjson

from ostiary.errors import AccessDenied, AccessError, ClientDisconnected, Unauthenticated
from ostiary.exchange import Exchange, Header

_PROBLEM: Final[Header] = (b"content-type", b"application/problem+json")
_NO_STORE: Final[Header] = (b"cache-control", b"no-store")

# RFC 6750 section 3, RFC 9449 section 7.1: no error code when no credential came; one code, and no more, for a bad one.
# It is the token's also where the proof was bad: who has a token and not its key is not told that the token is good.
_CODES: Final[dict[str, str]] = {"identity-missing": "", "identity-invalid": ', error="invalid_token"'}


class Problems:
    """Renders refusals. With `detail="minimal"` a client learns status and id; the reasons stay in the audit.

    What a 401 asks for (RFC 9110 section 15.5.2): a bearer token, unless `bearer` is false; a DPoP proof, where
    `dpop_algorithms` are accepted in one; a client certificate, where neither.
    """

    def __init__(
        self,
        *,
        detail: Literal["full", "minimal"] = "full",
        bearer: bool = True,
        dpop_algorithms: Sequence[str] = (),
    ) -> None:
        self._full = detail == "full"
        asked = ['Bearer realm="ostiary"'] if bearer else []
        if dpop_algorithms:
            asked.append(f'DPoP realm="ostiary", algs="{" ".join(dpop_algorithms)}"')
        # No scheme is registered for certificates, and a 401 has to name one.
        asked = asked or ['Certificate realm="ostiary"']
        self._challenges: dict[str, list[Header]] = {
            reason: [(b"www-authenticate", f"{scheme}{code}".encode("ascii")) for scheme in asked]
            for reason, code in _CODES.items()
        }

    def headers(self, refusal: AccessError) -> list[Header]:
        headers = [_PROBLEM, _NO_STORE]
        if isinstance(refusal, Unauthenticated):
            headers.extend(self._challenges[refusal.reason])
        if refusal.retry_after is not None:
            headers.append((b"retry-after", str(refusal.retry_after).encode()))
        if refusal.closes:
            headers.append((b"connection", b"close"))
        return headers

    def body(self, refusal: AccessError, exchange_id: str, offered: Mapping[str, Any] | None = None) -> bytes:
        """The document. Its `reasons` are all of the refusal's; `offered` tells how a denial can be lifted."""
        document: dict[str, Any] = {"type": "about:blank", "status": refusal.status, "decision_id": exchange_id}
        if self._full:
            document["title"] = refusal.sentence
            document["reasons"] = list(refusal.reasons)
            if offered is not None and isinstance(refusal, AccessDenied):
                document.update(offered)
        return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)

    async def answer(self, exchange: Exchange, refusal: AccessError, offered: Mapping[str, Any] | None = None) -> None:
        """Refuse the exchange. Once headers are out nothing can be said: leaving it incomplete aborts it."""
        if exchange.response_started or isinstance(refusal, ClientDisconnected):
            return
        headers = self.headers(refusal)
        if not exchange.body_complete and not refusal.closes and _has_body(exchange):
            headers.append((b"connection", b"close"))  # the rest of the body is not going to be read
        await exchange.respond(refusal.status, headers, self.body(refusal, exchange.id, offered))


def _has_body(exchange: Exchange) -> bool:
    return any(
        (name == b"content-length" and value != b"0") or name == b"transfer-encoding"
        for name, value in exchange.headers
    )
