"""The services behind the proxy: their hosts and upstreams, and what each receives."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, PlainValidator, WithJsonSchema, model_validator

from ostiary.config.fields import UNIQUE, CorsOrigin, DistinctOrEmpty, FilePath, Frozen, HostName, UpstreamOrigin
from ostiary.policy.mistakes import StandIn
from ostiary.policy.model import Strict
from ostiary.policy.values import FILLED, Distinct, Duration, mistake, mistakes_at
from ostiary.policy.words import closest, quoted
from ostiary.routes import METHODS
from ostiary.upstream.headers import never_kept

_FIELD_NAME: Final = re.compile("[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # RFC 9110 section 5.6.2


def _field_name(value: str) -> str:
    if value == "*":
        raise mistake("there is no wildcard: each header is named")
    if not _FIELD_NAME.fullmatch(value):
        raise mistake(f"{quoted(value)} is not the name of a header")
    return value.lower()


def _method(value: Any) -> str:
    if value in METHODS:
        return str(value)
    raise mistake(f"{quoted(value)} is not a method{closest(str(value), METHODS)}")


def _kept(value: str) -> str:
    name = _field_name(value)
    if never_kept(name.encode("ascii")):
        raise mistake(f"{quoted(value)} never goes to a service")
    return name


FieldName: TypeAlias = Annotated[str, AfterValidator(_field_name)]
KeptName: TypeAlias = Annotated[str, AfterValidator(_kept)]
Method: TypeAlias = Annotated[str, PlainValidator(_method), WithJsonSchema({"enum": sorted(METHODS)})]


class Credential(Strict):
    """What the service receives in place of the caller's own credential."""

    strategy: Literal["minted"] = "minted"
    """`minted`: a JWT signed by this proxy, for this service and one endpoint."""
    lifetime: Annotated[int, Duration(least=1, most=3600, whole=True)] = 60
    """How long it is good for, at most; a permission can ask for less. Whole seconds."""


class Cors(Strict):
    """Which pages of other origins may call the service from a browser. Preflights are answered by the proxy."""

    origins: Annotated[tuple[CorsOrigin, ...], Frozen, Distinct, FILLED]
    """Exact origins: `https://app.test`. Never `"*"`."""
    methods: Annotated[tuple[Method, ...], Frozen, Distinct, FILLED] = ("GET", "HEAD", "POST")
    """Methods that pages may use."""
    headers: Annotated[tuple[FieldName, ...], Frozen, DistinctOrEmpty, UNIQUE] = ("authorization", "content-type")
    """Request headers that pages may send."""
    expose: Annotated[tuple[FieldName, ...], Frozen, DistinctOrEmpty, UNIQUE] = ()
    """Response headers that pages may read, besides those that they always may."""
    credentials: bool = False
    """Whether a browser may send its cookies and certificates along. Bearer tokens need no such thing."""
    max_age: Annotated[int, Duration(least=0, most=86400, whole=True)] = 600
    """How long a browser may remember a preflight's answer. Whole seconds."""


class UpstreamTls(Strict):
    """How the service's certificate is checked. It always is."""

    ca_file: FilePath | None = None
    """PEM file of the authorities that are trusted for it; the system's if left out."""
    server_name: HostName | None = None
    """The name that its certificate must have; the upstream's host if left out."""


class ServiceSettings(Strict):
    """Where a service of the permission map answers, and where it is."""

    hosts: Annotated[tuple[HostName, ...], Frozen, Distinct, FILLED, StandIn(["stand-in.invalid"])]
    """Names in a request's Host that mean this service, without a port. Compared in lower case."""
    upstream: Annotated[UpstreamOrigin, StandIn("https://stand-in.invalid")]
    """The origin that requests are forwarded to: `http://127.0.0.1:9001`. No path."""
    credential: Credential = Credential.model_construct()
    cors: Cors | None = None
    keep_headers: Annotated[tuple[KeptName, ...], Frozen, DistinctOrEmpty, UNIQUE] = ()
    """Request headers that the service gets although their names end like a credential's or an identity's, or say for
    whom a request is: `[x-tenant-id]`. The service must not believe them about who is calling."""
    public_url: UpstreamOrigin | None = None
    """The origin by which clients reach the service, where that is not the listener's own scheme with the host and port
    of the request: behind a load balancer that ends TLS. It is what `htu` of a DPoP proof must name. No path."""
    tls: UpstreamTls | None = None

    @model_validator(mode="after")
    def _tls_where_it_is_used(self) -> ServiceSettings:
        if self.tls is not None and self.upstream.scheme != "https":
            raise mistakes_at([(("tls",), "the upstream is not https, so no certificate would be checked")], lacking=())
        return self
