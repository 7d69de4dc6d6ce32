"""The composition root of a worker: every part is built here, once, from the configuration.

The pipeline sees interfaces; which class stands behind each, and which of them is cached, is chosen in `compose`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from ostiary.access import AccessRequestBuilder, NoGrants
from ostiary.audit import (
    CHECKPOINTS,
    AuditFiles,
    AuditKeys,
    AuditTrail,
    Chain,
    Checkpoints,
    FileAuditLog,
    SyslogCopy,
)
from ostiary.certificates import TlsFiles, listener_files
from ostiary.clock import Clock, SystemClock
from ostiary.concierge import (
    JWKS_PATH,
    PROTECTED_RESOURCE_PATH,
    ProxyConcierge,
    protected_resource_metadata,
)
from ostiary.config import Config
from ostiary.credential import (
    CachingSwapper,
    MintedSwapper,
    Minter,
    Swapper,
    ensure_signing_key,
    load_signing_key,
    public_jwks,
)
from ostiary.decision.authorizer import OpaAuthorizer
from ostiary.decision.batching import BatchingPolicy
from ostiary.decision.cache import CachingAuthorizer
from ostiary.decision.horizon import Announcements, PolicyHorizon
from ostiary.decision.limits import LimitedAuthorizer
from ostiary.decision.staleness import StalenessLimit
from ostiary.errors import AccessError
from ostiary.identity import (
    CertificateSource,
    ListenerAuthenticator,
    MtlsAuthenticator,
    ReplayTable,
    XfccAuthenticator,
    build_authenticator,
)
from ostiary.interfaces import Authorizer, EndpointCatalog, EndpointPredictor
from ostiary.opa.address import OpaAddress
from ostiary.opa.bundle import PublishedBundle
from ostiary.opa.catalog import OpaEndpointCatalog
from ostiary.opa.client import OpaClient
from ostiary.opa.monitor import BundlePublication, PolicyMonitor, StatusPublication
from ostiary.pipeline import Pipeline
from ostiary.problem import Problems
from ostiary.server import Gate, Refused, strict_protocol, tls_protocol
from ostiary.stage_settings import (
    cors_settings,
    dpop_settings,
    forwarding_peers,
    issuer_settings,
    listener_limits,
    pinned_proxies,
    upstream_settings,
)
from ostiary.target import Targets
from ostiary.upstream import Forwarder

_LOOK_INTERVAL: Final = 5.0
"""Seconds between two looks at OPA, at most."""


class DataApplication(Starlette):
    """The Starlette application of the data listener.

    Starlette gives it its lifespan. Requests go straight to the pipeline: neither a router nor a middleware stands
    before a decision, because none of them knows what the pipeline knows (and a mounted route costs 14 %).
    """

    def __init__(
        self, pipeline: ASGIApp, *, lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]]
    ) -> None:
        super().__init__(lifespan=lifespan)
        self._gate = Gate(http=pipeline, lifespan=super().__call__)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # type: ignore[override]
        return self._gate(scope, receive, send)


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """A worker's application, and the protocol class that its listener must have.

    `application` has an ASGI lifespan; whoever would rather have its errors than a server's log enters `lifespan()`.
    """

    application: DataApplication
    protocol: type[asyncio.Protocol]

    def lifespan(self) -> AbstractAsyncContextManager[object]:
        return self.application.router.lifespan_context(self.application)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Who decides, and who knows the endpoints, of what is asked and of what was decided. `lifespan` is open while
    requests are served."""

    authorizer: Authorizer
    catalog: EndpointCatalog
    predictor: EndpointPredictor
    lifespan: AbstractAsyncContextManager[object]


def compose(config: Config, *, name: str, port: int, policy: Policy, clock: Clock) -> Composed:
    """Build a worker. `name` is its own among the workers, `port` the one that its listener has."""
    key = load_signing_key(
        config.signing_key_file,
        algorithm=config.signing.algorithm,
        group_readable=config.secrets.group_readable,
    )
    issuer = config.credential_issuer
    audit = FileAuditLog(
        sink=audit_trail(config, worker=name), worker=name, clock=clock, deadline=config.audit.deadline
    )
    files = listener_files(config)
    if files is not None:
        files.load()
    replays = None if config.listen.dpop is None else ReplayTable.attach(config.replay_file)
    authenticator = listener_authenticator(config, files, replays, clock=clock)
    forwarder = Forwarder(
        {name: upstream_settings(service, config) for name, service in config.services.items()},
        drain_timeout=config.limits.drain_timeout,
    )
    minter = Minter(key=key, issuer=issuer)
    listen = config.listen
    asks_clients = listen.tls is not None and listen.tls.asks_clients
    dpop_algorithms = () if listen.dpop is None else listen.dpop.algorithms
    # Where only tokens are taken that are bound to a key, a bearer token is not asked for.
    dpop_required = listen.bound_tokens == "required" and not asks_clients
    problems = Problems(
        detail=config.errors.detail,
        bearer="jwt" in listen.identity and not dpop_required,
        dpop_algorithms=dpop_algorithms,
    )
    pipeline = Pipeline(
        audit=audit,
        targets=Targets(
            hosts={host: name for name, service in config.services.items() for host in service.hosts},
            own_host=config.own_host,
            ports=frozenset({port, *config.listen.public_ports}),
            target_bytes=config.limits.target_bytes,
        ),
        concierge=ProxyConcierge(
            cors={name: cors for name, one in config.services.items() if (cors := cors_settings(one)) is not None},
            documents={
                JWKS_PATH: (b"application/jwk-set+json", public_jwks([key.public], config.signing.extra_keys)),
                PROTECTED_RESOURCE_PATH: (
                    b"application/json",
                    protected_resource_metadata(
                        resource=issuer,
                        issuers=[one.issuer for one in config.issuers if one.use == "jwt"],
                        certificate_bound=asks_clients and "jwt" in listen.identity,
                        dpop_algorithms=dpop_algorithms,
                        dpop_required=dpop_required,
                    ),
                ),
            },
        ),
        authenticator=authenticator,
        requests=AccessRequestBuilder(clock=clock, grants=NoGrants(), endpoints=policy.predictor),
        authorizer=policy.authorizer,
        swapper=CachingSwapper(
            Swapper(
                {
                    name: MintedSwapper(
                        minter=minter, catalog=policy.catalog, clock=clock, lifetime=service.credential.lifetime
                    )
                    for name, service in config.services.items()
                }
            ),
            clock=clock,
        ),
        upstream=forwarder,
        problems=problems,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for part in (audit, authenticator, *(one for one in (files, replays) if one is not None)):
                await part.start()
                stack.push_async_callback(part.close)
            await stack.enter_async_context(policy.lifespan)
            await forwarder.start()
            stack.push_async_callback(forwarder.close)
            yield

    def refused(refusal: AccessError, facts: Refused) -> None:
        audit.refused(
            refusal,
            decision_id=facts.id,
            peer=facts.peer,
            method=facts.method,
            target=facts.target,
            host=facts.host,
        )

    strict = strict_protocol(
        limits=listener_limits(config), problems=problems, on_refused=refused, proxies=pinned_proxies(config)
    )
    return Composed(
        application=DataApplication(pipeline, lifespan=lifespan),
        protocol=strict if files is None else tls_protocol(strict, contexts=files),
    )


def audit_trail(config: Config, *, worker: str) -> AuditTrail:
    """The files of the audit, the chain that runs through them, and its checkpoints.

    Raises `ConfigurationError` if the key of the checkpoints cannot be had.
    """
    settings = config.audit
    writing, signing = SystemClock(), SystemClock()  # each is used by a thread of its own
    chain = Chain(
        worker=worker, keys=AuditKeys(config.audit_keys, lifetime=float(settings.key_lifetime)), clock=writing
    )
    copy = None if settings.syslog is None else SyslogCopy(settings.syslog, worker=worker)
    written = None if copy is None else copy.offer
    # Of checkpoints there are not above one for each record, and shorter: within the same bounds they outlast records.
    files = partial(AuditFiles, worker=worker, max_bytes=settings.max_bytes, keep=settings.keep, sync=settings.sync)
    return AuditTrail(
        files(directory=settings.path, clock=writing, chain=chain, written=written),
        Checkpoints(
            sink=files(directory=config.audit_checkpoints, clock=signing, prefix=CHECKPOINTS),
            signer=ensure_signing_key(
                config.checkpoint_key_file, "EdDSA", group_readable=config.secrets.group_readable
            ),
            worker=worker,
            clock=signing,
            head=lambda: chain.head,
            written=written,
        ),
        worker=worker,
        clock=writing,
        copy=copy,
    )


def listener_authenticator(
    config: Config, files: TlsFiles | None, replays: ReplayTable | None, *, clock: Clock
) -> ListenerAuthenticator:
    """How the data listener finds out who sends a request. `files` know whose certificates are trusted, `replays` what
    proofs were used."""
    listen = config.listen
    certificates: CertificateSource | None = None
    if files is not None and listen.tls is not None and listen.tls.asks_clients:
        certificates = MtlsAuthenticator(trust=files.trust, clock=clock)
        if listen.xfcc is not None:
            certificates = XfccAuthenticator(
                connections=certificates,
                peers=forwarding_peers(listen.xfcc, listen.tls),
                trust_domains=listen.xfcc.trust_domains,
            )
    return build_authenticator(
        [issuer_settings(one) for one in config.issuers],
        clock=clock,
        proofs=listen.identity,
        certificates=certificates,
        bound_tokens=listen.bound_tokens == "required",
        dpop=dpop_settings(config),
        replays=replays,
        memory=config.issuer_keys,
    )


def opa_policy(
    config: Config, address: OpaAddress, *, clock: Clock, announcements: Announcements | None = None
) -> Policy:
    """The policy that OPA holds: every decision is asked for, or was a moment ago."""
    horizon = PolicyHorizon(announcements=announcements)
    client, monitor = policy_monitor(config, address, clock=clock, horizon=horizon)
    catalog = OpaEndpointCatalog(source=client, clock=clock, horizon=horizon)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with client, monitor:
            await catalog.read()
            yield

    return Policy(
        authorizer=opa_authorizer(config, client=client, monitor=monitor, horizon=horizon, clock=clock),
        catalog=catalog,
        predictor=catalog,
        lifespan=lifespan(),
    )


def opa_authorizer(
    config: Config, *, client: OpaClient, monitor: PolicyMonitor, horizon: PolicyHorizon, clock: Clock
) -> Authorizer:
    """From the outside in: the cache, the limits on what is asked, the questions, batched."""
    opa, limits = config.opa, config.limits
    staleness = StalenessLimit(freshness=monitor, most=opa.max_policy_age)
    asking = LimitedAuthorizer(
        authorizer=OpaAuthorizer(
            policy=BatchingPolicy(policy=client, deadline=opa.deadline, lanes=min(2, len(cores()))),
            staleness=staleness,
            horizon=horizon,
        ),
        clock=clock,
        in_flight=limits.decisions_in_flight,
        rate=limits.decisions_per_second,
        burst=2 * limits.decisions_per_second,
    )
    if limits.cached_decisions == 0:
        return asking
    return CachingAuthorizer(
        authorizer=asking,
        horizon=horizon,
        staleness=staleness,
        allows=limits.cached_decisions,
        denials=limits.cached_denials,
        per_identity=limits.cached_per_identity,
    )


def policy_monitor(
    config: Config,
    address: OpaAddress,
    *,
    clock: Clock,
    horizon: PolicyHorizon,
    changed: Callable[[], None] = lambda: None,
    data_deadline: float = 5.0,
) -> tuple[OpaClient, PolicyMonitor]:
    """A client for OPA and a watch on it, both to be opened, in this order. `data_deadline` is the client's, `horizon`
    and `changed` are the watch's."""
    opa = config.opa
    client = OpaClient(
        address=address,
        token=opa.bearer,
        ca_file=opa.ca_file,
        deadline=opa.deadline,
        data_deadline=data_deadline,
    )
    publication = (
        StatusPublication(opa=client)
        if opa.managed is None
        else BundlePublication(bundle=PublishedBundle(opa.managed.bundle), clock=clock)
    )
    # Several looks within the limit: a policy that is confirmed at each of them is never stale between two.
    interval = min(_LOOK_INTERVAL, opa.max_policy_age / 4)
    return client, PolicyMonitor(
        opa=client, publication=publication, clock=clock, horizon=horizon, changed=changed, interval=interval
    )


def cores() -> tuple[int, ...]:
    """Those that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))
