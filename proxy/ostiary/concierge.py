"""What the proxy answers itself, to anyone: CORS preflights, and the documents under its own `/.well-known/`.

**CORS** (Fetch standard). A preflight carries no credential, so nobody could be identified: where a service has
`cors`, the proxy answers and the service never sees it. It is answered with everything the service's settings allow,
whatever was asked, and the browser compares. From an origin that is not listed it is refused, without a header that
the page could read. A request that is not a preflight (any other OPTIONS among them) goes on down the pipeline; its
answer, a refusal too, can be read by the page if the origin is listed. CORS tells browsers what a page may read; it is
no access control. A service without `cors` has none of this: its preflights are requests like others and need an
identity.

For a service with `cors`, `exchange.decorations` is never empty. The forwarder then leaves out every `access-control-*`
header of the upstream, so that there is one authority and no header twice.

**Documents.** Only what is registered, by GET or HEAD, with or without a query. Anything else under `/.well-known/` is
`unknown-endpoint`, a wrong method included (never 404 or 405). The rest of the own host needs an identity: it goes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import orjson

from ostiary.addresses import is_localhost
from ostiary.errors import OriginRefused, UnknownEndpoint
from ostiary.exchange import Exchange, Header
from ostiary.models import Target
from ostiary.target import OWN_SERVICE

Document: TypeAlias = tuple[bytes, bytes]
"""A content type, and the body."""

JWKS_PATH: Final = "/.well-known/jwks.json"
PROTECTED_RESOURCE_PATH: Final = "/.well-known/oauth-protected-resource"  # RFC 9728 section 3

_WELL_KNOWN: Final = ".well-known"
_READING: Final = frozenset({"GET", "HEAD"})
_VARY: Final[Header] = (b"vary", b"Origin")

# Short, because keys rotate: a verifier may not know a key for this long after it was published (seconds).
_DOCUMENT_AGE: Final = 60

# An origin as browsers serialise it: lower case, the default port left out, no path (Fetch; RFC 6454 section 6.1).
_ORIGIN: Final = re.compile(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:]+\])(?::([1-9][0-9]{0,4}))?")
_DEFAULT_PORT: Final = {"http": "80", "https": "443"}
_FIELD_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 section 5.6.2


@dataclass(frozen=True, slots=True, kw_only=True)
class CorsSettings:
    """Which pages may use a service from a browser, and how. No `*` anywhere: what is not listed is refused.

    `origins` are compared exactly. `methods` and `headers` are what requests may use, `expose` which response headers
    a page may read, `credentials` whether cookies and client certificates may be sent along (a bearer token that the
    page sets itself needs none of it), `max_age` for how many seconds a browser may remember the answer.
    Raises ValueError.
    """

    origins: tuple[str, ...]
    methods: tuple[str, ...]
    headers: tuple[str, ...]
    expose: tuple[str, ...]
    credentials: bool
    max_age: int

    def __post_init__(self) -> None:
        for origin in self.origins:
            parts = _ORIGIN.fullmatch(origin)
            if parts is None or parts[3] == _DEFAULT_PORT[parts[1]]:
                raise ValueError(f"{origin!r} is not an origin as browsers send it, such as https://shop.example")
        for name in (*self.methods, *self.headers, *self.expose):
            if name == "*" or not _FIELD_NAME.fullmatch(name):
                raise ValueError(f"{name!r} names no method or header")
        if self.max_age < 0:
            raise ValueError("max_age is not negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cors:
    """The settings as headers."""

    origins: frozenset[bytes]
    readable: tuple[Header, ...]
    preflight: tuple[Header, ...]
    credentials: tuple[Header, ...]


class ProxyConcierge:
    """A `Concierge`. `cors` is by service name, `documents` by path on the proxy's own host."""

    def __init__(self, *, cors: Mapping[str, CorsSettings], documents: Mapping[str, Document]) -> None:
        for path in documents:
            if not path.startswith(f"/{_WELL_KNOWN}/"):
                raise ValueError(f"{path!r} would be public, and is not under /{_WELL_KNOWN}/")
        self._cors = {service: _prepared(settings) for service, settings in cors.items()}
        self._documents = dict(documents)

    async def answer(self, exchange: Exchange, target: Target) -> bool:
        """Answer what is the proxy's to answer to anyone. Raises `OriginRefused`, `UnknownEndpoint`."""
        cors = self._cors.get(target.service)
        if cors is not None and await self._answer_preflight(exchange, cors):
            return True
        if target.service == OWN_SERVICE and target.segments[:1] == (_WELL_KNOWN,):
            await self._answer_document(exchange, target)
            return True
        return False

    async def _answer_preflight(self, exchange: Exchange, cors: _Cors) -> bool:
        """Decorate whatever answer this exchange gets; answer it here if it is a preflight."""
        exchange.decorations.append(_VARY)
        origin = exchange.header(b"origin")
        if origin is None:
            return False
        preflight = exchange.method == "OPTIONS" and exchange.header(b"access-control-request-method") is not None
        if origin not in cors.origins:
            if preflight:
                raise OriginRefused(f"a preflight from {origin.decode('latin-1')}")
            return False
        exchange.decorations.append((b"access-control-allow-origin", origin))
        exchange.decorations.extend(cors.credentials)
        if not preflight:
            exchange.decorations.extend(cors.readable)
            return False
        await exchange.start_response(204, cors.preflight)  # no content-length: RFC 9110 section 8.6
        await exchange.send_body(b"", more=False)
        return True

    async def _answer_document(self, exchange: Exchange, target: Target) -> None:
        document = self._documents.get(target.path)
        if document is None or exchange.method not in _READING:
            raise UnknownEndpoint(detail="not a document of the proxy")
        content_type, body = document
        headers = [
            (b"content-type", content_type),
            (b"cache-control", b"public, max-age=%d" % _DOCUMENT_AGE),
            (b"x-content-type-options", b"nosniff"),
        ]
        await exchange.respond(200, headers, body)


def protected_resource_metadata(
    *,
    resource: str,
    issuers: Iterable[str],
    certificate_bound: bool = False,
    dpop_algorithms: Sequence[str] = (),
    dpop_required: bool = False,
) -> bytes:
    """The metadata of RFC 9728 section 2: the `resource` identifier, and whose tokens it takes, in the header only.

    `certificate_bound` is whether tokens may be bound to client certificates, `dpop_algorithms` are those of the proofs
    that tokens may be bound to keys by, and `dpop_required` says that no other tokens are taken.

    Raises ValueError for an identifier that is not https (plain http is for loopback) or has a query or fragment.
    """
    parts = urlsplit(resource)
    if parts.hostname is None or (
        parts.scheme != "https" and not (parts.scheme == "http" and is_localhost(parts.hostname))
    ):
        raise ValueError(f"{resource!r} is not an https address")
    if "#" in resource or "?" in resource:
        raise ValueError(f"{resource!r} has a query or fragment")
    document: dict[str, object] = {"resource": resource, "bearer_methods_supported": ["header"]}
    if servers := list(issuers):  # a list without elements is left out: section 3.2
        document["authorization_servers"] = servers
    if certificate_bound:
        document["tls_client_certificate_bound_access_tokens"] = True
    if dpop_algorithms:
        document["dpop_signing_alg_values_supported"] = list(dpop_algorithms)
    if dpop_required:
        document["dpop_bound_access_tokens_required"] = True
    return orjson.dumps(document)


def _prepared(settings: CorsSettings) -> _Cors:
    preflight = [
        (b"access-control-allow-methods", ", ".join(settings.methods).encode()),
        (b"access-control-allow-headers", ", ".join(settings.headers).encode()),
        (b"access-control-max-age", str(settings.max_age).encode()),
    ]
    expose = ", ".join(settings.expose).encode()
    return _Cors(
        origins=frozenset(origin.encode() for origin in settings.origins),
        readable=((b"access-control-expose-headers", expose),) if expose else (),
        preflight=tuple(header for header in preflight if header[1]),
        credentials=((b"access-control-allow-credentials", b"true"),) if settings.credentials else (),
    )
