"""The models behind `ostiary.yaml`. A field's docstring is its text in the JSON Schema and in docs/configuration.md.

A `Config` is frozen and can be pickled, secrets included: a worker that is spawned gets the one that was checked.
Defaults that are models are constructed, not validated: that would build the model in a worker, which needs none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from ostiary.config.audit import Audit
from ostiary.config.candidate import Candidate
from ostiary.config.fields import (
    UNIQUE,
    DistinctOrEmpty,
    FilePath,
    Frozen,
    GrantStoreUrl,
    HostName,
    SecureUrl,
    TcpAddress,
    UnixAddress,
    UpstreamOrigin,
)
from ostiary.config.issuers import STAND_IN, Issuer
from ostiary.config.limits import Limits
from ostiary.config.listen import Listen
from ostiary.config.opa import Opa
from ostiary.config.services import ServiceSettings
from ostiary.config.telemetry import Telemetry
from ostiary.config.webhooks import Webhook
from ostiary.policy.mistakes import StandIn
from ostiary.policy.model import ServiceName, Strict
from ostiary.policy.values import FILLED, Distinct, Duration, Name, mistake, mistakes_at
from ostiary.policy.words import quoted


def _workers(value: Any) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1024:
        return value
    raise mistake(f"{quoted(value)} is not a number of workers, 1 to 1024 or 'auto'")


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
    requests_per_day: Annotated[int, Field(ge=1, le=100_000)] = 200
    """How often one identity may ask for access in a day (UTC); more is 429."""
    keep_ended: Annotated[int, Duration(least=86400, most=3650 * 86400, whole=True)] = 90 * 86400
    """How long a request or a grant is kept after its end, and what an `Idempotency-Key` found; the audit has it for as
    long as the audit is kept. One whose review is open is kept until that is closed. Whole seconds."""
    webhooks: Annotated[dict[Name, Webhook], DistinctOrEmpty] = Field(default_factory=dict)
    """Who is told of requests and grants, each under a name of your choice."""
    public_url: UpstreamOrigin | None = None
    """The origin by which people and programs reach the proxy's own host, for what they are told. If left out, webhooks
    say `https://<own_host>`, and denials the scheme and the port of the request. No path."""


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
    """The host at which the proxy itself answers: its keys, its metadata and the API of access."""
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
    def block_memory(self) -> Path:
        """Where what was blocked last is kept, for a start without the store."""
        return self.state / "blocks.json"

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
        for name, webhook in () if self.grants is None else self.grants.webhooks.items():
            found.extend(
                (("grants", "webhooks", name, *place), told) for place, told in webhook.mistakes(self.services)
            )
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
