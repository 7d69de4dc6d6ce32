"""The models behind `ostiary.yaml`. A field's docstring is its text in the JSON Schema and in docs/configuration.md.

A `Config` is frozen and can be pickled, secrets included: a worker that is spawned gets the one that was checked.
Defaults that are models are constructed, not validated: that would build the model in a worker, which needs none.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from ostiary.config.candidate import Candidate
from ostiary.config.fields import (
    UNIQUE,
    CorsOrigin,
    DistinctOrEmpty,
    FilePath,
    Frozen,
    GrantStoreUrl,
    HostName,
    PolicyAddress,
    Secret,
    SecureUrl,
    SyslogRelay,
    TcpAddress,
    UnixAddress,
    UpstreamOrigin,
)
from ostiary.config.issuers import STAND_IN, Issuer
from ostiary.config.limits import Limits
from ostiary.config.listen import Listen
from ostiary.config.reporting import ReportTo
from ostiary.config.telemetry import Telemetry
from ostiary.opa.archive import Algorithm as BundleAlgorithm
from ostiary.policy.mistakes import StandIn
from ostiary.policy.model import ServiceName, Strict
from ostiary.policy.values import FILLED, Distinct, Duration, Size, mistake, mistakes_at
from ostiary.policy.words import closest, quoted
from ostiary.routes import METHODS

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


def _workers(value: Any) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1024:
        return value
    raise mistake(f"{quoted(value)} is not a number of workers, 1 to 1024 or 'auto'")


FieldName: TypeAlias = Annotated[str, AfterValidator(_field_name)]
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
    public_url: UpstreamOrigin | None = None
    """The origin by which clients reach the service, where that is not the listener's own scheme with the host and port
    of the request: behind a load balancer that ends TLS. It is what `htu` of a DPoP proof must name. No path."""
    tls: UpstreamTls | None = None

    @model_validator(mode="after")
    def _tls_where_it_is_used(self) -> ServiceSettings:
        if self.tls is not None and self.upstream.scheme != "https":
            raise mistakes_at([(("tls",), "the upstream is not https, so no certificate would be checked")], lacking=())
        return self


class Signing(Strict):
    """The key that credentials are signed with."""

    key_file: FilePath | None = None
    """PEM file of the private key, made at the first start where it is absent. `signing-key.pem` below `state` if left
    out; replicas share one by mounting it."""
    algorithm: Literal["EdDSA", "ES256"] = "EdDSA"
    """The signature's algorithm, which must fit the key."""
    extra_keys: Annotated[tuple[FilePath, ...], Frozen, DistinctOrEmpty, UNIQUE] = ()
    """PEM files of further public keys that are published beside it: the previous and the next, while keys change."""
    issuer: SecureUrl | None = None
    """The `iss` of minted credentials; `https://<own_host>` if left out."""


class Secrets(Strict):
    """The files of private keys: the signing key, the key of the listener's TLS, the key of checkpoints."""

    group_readable: bool = False
    """Whether a group of this process may be able to read them, too: as Kubernetes mounts secrets for a process that is
    not root (`fsGroup`, mode 0440). Otherwise this user alone can, or the proxy does not start; others never."""


class BundleVerification(Strict):
    """Whose signature the bundle must have. What has another, or none, is not taken over."""

    key_file: FilePath
    """The public key, PEM."""
    key_id: Annotated[str, Field(pattern="^[A-Za-z0-9._-]{1,128}$")]
    """The id that the signature names."""
    scope: Annotated[str, Field(pattern="^[A-Za-z0-9._/-]{1,128}$")] = "ostiary"
    """The scope that the signature is for."""
    algorithm: BundleAlgorithm = "ES256"
    """The one that is accepted, whatever the signature says."""


class Rollback(Strict):
    """By what an OPA at `url` may go back to an older bundle (`ostiary bundle rollback`)."""

    statement: FilePath
    """Where the statement is, or will be."""
    verification: BundleVerification
    """Whose signature it must have: that of bundles."""


class ManagedOpa(Strict):
    """OPA as a child process of the proxy, reached over a unix socket."""

    bundle: Annotated[FilePath, StandIn("stand-in")]
    """The bundle that it serves: a directory or an archive (`.tar.gz`) made by `ostiary bundle build`."""
    verification: BundleVerification | None = None
    """If given, the bundle is an archive that this key has signed (`ostiary bundle sign`). A statement of the same key
    beside it, `<bundle>.rollback`, takes it back to an older one (`ostiary bundle rollback`)."""
    binary: FilePath | None = None
    """The program; found or installed as `ostiary opa install` does if left out."""
    checksum: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """The SHA-256 that the program must have, in lower-case hexadecimal, wherever it comes from."""


class Opa(Strict):
    """The Open Policy Agent that decides. Either `managed` or `url`."""

    managed: Annotated[ManagedOpa | None, StandIn({"bundle": "stand-in"})] = None
    url: Annotated[PolicyAddress | None, StandIn("https://stand-in.invalid")] = None
    """An OPA that somebody else runs: `unix:///run/opa/opa.sock`, `http://127.0.0.1:8181` or an https origin."""
    token: Annotated[Secret | None, StandIn("stand-in")] = None
    """A bearer token for the OPA at `url`."""
    ca_file: FilePath | None = None
    """PEM file of the authorities that are trusted for the OPA at `url`, if that is https; the system's if left out."""
    report_to: Annotated[ReportTo | None, StandIn({"url": "https://stand-in.invalid"})] = None
    deadline: Annotated[float, Duration(least=0.001, most=30)] = 0.25
    """How long a decision may take; later is 503."""
    max_policy_age: Annotated[int, Duration(least=1, most=366 * 86400, whole=True)] = 86400
    """How old the policy may be before it stops being trusted: `policy-stale`, 503. Whole seconds."""

    minimum_revision: Annotated[int, Field(ge=0, lt=10**18)] = 0
    """The least sequence that a bundle may have, whatever was active before and whoever signed a way back."""
    rollback: Rollback | None = None
    """For an OPA at `url`; a managed one has it beside its bundle."""

    @property
    def bearer(self) -> str | None:
        """The token in clear, for whoever sends it."""
        return None if self.token is None else self.token.get_secret_value()

    @model_validator(mode="after")
    def _exactly_one(self) -> Opa:
        if (self.managed is None) == (self.url is None):
            lacking = ("managed", "url") if self.url is None else ()
            raise mistake("needs exactly one of 'managed' and 'url'", lacking=lacking)
        found: list[tuple[tuple[int | str, ...], str]] = []
        if self.managed is not None and self.token is not None:
            found.append((("token",), "a managed OPA is reached over its own socket and takes no token"))
        if self.managed is not None and self.rollback is not None:
            told = "a managed OPA finds the statement beside its bundle"
            found.append((("rollback",), told))
        if self.ca_file is not None and (self.url is None or not self.url.tls):
            found.append((("ca_file",), "the OPA is not reached over https, so no certificate would be checked"))
        if self.managed is not None and self.report_to is not None:
            found.append((("report_to",), "a managed OPA gets its bundle from a file, and reports nothing"))
        if found:
            raise mistakes_at(found, lacking=())
        return self


class Audit(Strict):
    """The record of every request. No record, no access."""

    path: FilePath = Field(default=Path("audit"), validate_default=True)
    """The directory that holds the audit files."""
    max_bytes: Annotated[int, Size(least=64 * 1024, most=1024**4)] = 100 * 1024**2
    """The size at which a file is closed and the next begun."""
    keep: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """How many closed files are kept. All if null."""
    sync: bool = False
    """Whether each group of records is forced to the disk before a request goes on. Records survive the death of the
    process either way; only with `true` they survive a power loss."""
    deadline: Annotated[float, Duration(least=0.01, most=60)] = 1.0
    """How long writing may take; later is 503."""
    keys: FilePath | None = None
    """The directory of the keys that seal the records, apart from them. `audit-keys` below `state` if left out."""
    key_lifetime: Annotated[int, Duration(least=60, most=366 * 86400, whole=True)] = 86400
    """How long one key is sealed with before the next is made. Whole seconds."""
    checkpoints: FilePath | None = None
    """The directory that is told once a second where each chain stands: best another disk, or another machine's.
    `checkpoints` below `state` if left out."""
    checkpoint_key: FilePath | None = None
    """PEM file of the Ed25519 key that signs checkpoints, made at the first start where it is absent.
    `checkpoint-key.pem` below `state` if left out."""

    syslog: SyslogRelay | None = None
    """A relay on this machine that gets a copy of every record and checkpoint: `unix:/dev/log`, or `udp:` or `tcp:`
    with a loopback `host:port`. No request waits for it; what it does not take is counted."""

    @model_validator(mode="after")
    def _apart(self) -> Audit:
        found = [
            ((key,), f"is in the directory of the audit, {self.path}: whoever can change that could change both")
            for key in ("keys", "checkpoints", "checkpoint_key")
            if (place := getattr(self, key)) is not None and place.absolute().is_relative_to(self.path.absolute())
        ]
        if found:
            raise mistakes_at(found, lacking=())
        return self


class Grants(Strict):
    """Where grants are kept, and how many there may be."""

    url: GrantStoreUrl
    """`sqlite:///grants.db`, a file for the workers of one machine (on its own disk, not on a network's), or
    `postgresql://…` for several machines, which takes `ostiary[postgresql]`."""
    deadline: Annotated[float, Duration(least=0.05, most=30)] = 2.0
    """How long the store may take to answer; later is 503."""
    pending_for: Annotated[int, Duration(least=60, most=30 * 86400, whole=True)] = 86400
    """How long a request waits for approval before it expires. Whole seconds."""
    time_per_day: Annotated[int, Duration(least=1, most=7 * 86400, whole=True)] | None = None
    """How much time one person may be granted in a day (UTC), all their grants together. No limit if left out."""


class Errors(Strict):
    """What refused callers are told."""

    detail: Literal["full", "minimal"] = "full"
    """`full`: the reasons, and how a denial can be requested. `minimal`: neither; both stay in the audit."""


class Logging(Strict):
    """The proxy's own log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe that is written."""
    format: Literal["text", "json"] = "text"
    """For people, or for programs: one JSON object a line, with `time`, `level`, `logger`, `worker` and `message`."""


class Config(Strict):
    """How this proxy runs."""

    listen: Annotated[Listen, StandIn({"data": "127.0.0.1:0"})]
    own_host: HostName = "ostiary.localhost"
    """The host at which the proxy itself answers: its keys and its metadata."""
    workers: Annotated[
        int | Literal["auto"],
        PlainValidator(_workers),
        WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 1024}, {"const": "auto"}]}),
    ] = 1
    """Processes that serve requests; `auto` is one for each core."""
    pin_workers: bool = True
    """With a worker for each core, each keeps to its own, which costs less CPU. With more or fewer it says nothing."""
    state: FilePath = Field(default=Path("state"), validate_default=True)
    """A private directory (0700) for the signing key and the sockets."""
    issuers: Annotated[tuple[Issuer, ...], Frozen, Distinct, FILLED, StandIn([STAND_IN])] = ()
    """Those whose tokens are accepted. Needed where `listen.identity` has `jwt`, and there alone."""
    services: Annotated[
        dict[ServiceName, ServiceSettings],
        Distinct,
        Field(json_schema_extra={"minProperties": 1}),
        StandIn({"stand-in": {"hosts": ["stand-in.invalid"], "upstream": "https://stand-in.invalid"}}),
    ]
    """The services of the permission map, by name."""
    signing: Signing = Signing.model_construct()
    secrets: Secrets = Secrets.model_construct()
    opa: Annotated[Opa, StandIn({"managed": {"bundle": "stand-in"}})]
    audit: Audit = Field(default_factory=dict, validate_default=True)
    grants: Grants | None = None
    candidate: Candidate | None = None
    limits: Limits = Limits.model_construct()
    errors: Errors = Errors.model_construct()
    logging: Logging = Logging.model_construct()
    telemetry: Telemetry = Telemetry.model_construct()

    @property
    def admin_address(self) -> TcpAddress | UnixAddress:
        return self.listen.admin or UnixAddress(self.state / "admin.sock")

    @property
    def hosts(self) -> dict[str, str]:
        """The service that each host means. The proxy's own is not among them."""
        return {host: name for name, service in self.services.items() for host in service.hosts}

    @property
    def trust_domains(self) -> frozenset[str]:
        """Those whose workloads can be proved to be the caller, by whatever proof the listener takes."""
        listen = self.listen
        found = {
            issuer.issuer.removeprefix("spiffe://")
            for issuer in self.issuers
            if issuer.use == "jwt-svid" and "jwt" in listen.identity
        }
        if listen.identity == ("mtls",) and listen.tls is not None:
            found.update(listen.tls.trust_domains or ())
        if listen.identity == ("xfcc",) and listen.xfcc is not None:
            found.update(listen.xfcc.trust_domains)
        return frozenset(found)

    @property
    def signing_key_file(self) -> Path:
        return self.signing.key_file or self.state / "signing-key.pem"

    @property
    def audit_keys(self) -> Path:
        return self.audit.keys or self.state / "audit-keys"

    @property
    def audit_checkpoints(self) -> Path:
        return self.audit.checkpoints or self.state / "checkpoints"

    @property
    def checkpoint_key_file(self) -> Path:
        return self.audit.checkpoint_key or self.state / "checkpoint-key.pem"

    @property
    def policy_record(self) -> Path:
        """Where the supervisor remembers which bundles were active."""
        return self.state / "policy.json"

    @property
    def issuer_keys(self) -> Path:
        """Where a worker leaves the issuers' keys for the next."""
        return self.state / "issuer-keys"

    @property
    def grant_board(self) -> Path:
        """Where the processes of this machine share which grants count."""
        return self.state / "grants"

    @property
    def replay_file(self) -> Path:
        """Where the workers share what DPoP proofs were used."""
        return self.state / "proofs"

    @property
    def credential_issuer(self) -> str:
        """The `iss` of minted credentials."""
        return self.signing.issuer or f"https://{self.own_host}"

    @model_validator(mode="before")
    @classmethod
    def _tokens_need_issuers(cls, written: Any) -> Any:
        """Looked at first: whatever else is wrong with the listener, what it says of tokens says it."""
        if isinstance(written, dict) and "issuers" not in written:
            listen = written.get("listen")
            proofs = listen.get("identity", ["jwt"]) if isinstance(listen, dict) else ["jwt"]
            if isinstance(proofs, list) and "jwt" in proofs:
                told = mistake("is missing", because=("listen", "identity"))  # what stands in for a broken one
                raise mistakes_at([(("issuers",), told)])
        return written

    @model_validator(mode="after")
    def _is_unambiguous(self) -> Config:
        found: list[tuple[tuple[int | str, ...], str | PydanticCustomError]] = []
        owners = {self.own_host: "the proxy itself"}
        for name, service in self.services.items():
            for index, host in enumerate(service.hosts):
                owner = owners.setdefault(host, f"service {quoted(name)}")
                if owner != f"service {quoted(name)}":
                    found.append((("services", name, "hosts", index), f"{quoted(host)} is the host of {owner} already"))
        if self.state.absolute().is_relative_to(self.audit.path.absolute()):
            told = f"is around the state, {self.state}: whoever can change the audit could change its keys too"
            found.append((("audit", "path"), told))
        if self.candidate is not None:
            found.extend(self.candidate.mistakes(self.opa))
        if "jwt" not in self.listen.identity and self.issuers:
            told = f"the listener takes no tokens: its identity is [{', '.join(self.listen.identity)}]"
            found.append((("issuers",), told))
        tls = self.listen.tls
        if tls is not None and tls.client_ca is not None:
            found.extend(
                (
                    ("listen", "tls", "client_ca", "issuer"),
                    f"is the name of issuers[{index}] too: nobody could tell them apart",
                )
                for index, issuer in enumerate(self.issuers)
                if issuer.issuer == tls.client_ca.issuer
            )
        issuers = [issuer.issuer for issuer in self.issuers]
        found.extend(
            (("issuers", index, "issuer"), f"this issuer is the one of issuers[{issuers.index(issuer)}] already")
            for index, issuer in enumerate(issuers)
            if issuer in issuers[:index]
        )
        found.extend(
            (
                ("issuers", index, "issuer"),
                "the proxy signs credentials in this name itself: none of them is a caller's token",
            )
            for index, issuer in enumerate(issuers)
            if issuer == self.credential_issuer
        )
        if found:
            raise mistakes_at(found)
        return self
