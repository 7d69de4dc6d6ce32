"""The composition root of a worker: every part is built here, once, from the configuration.

The pipeline sees interfaces; which class stands behind each, and which of them is cached, is chosen in `compose`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from ostiary.access import AccessRequestBuilder
from ostiary.admin.health import WorkerHealth
from ostiary.audit import (
    CHECKPOINTS,
    AuditFiles,
    AuditKeys,
    AuditTrail,
    Chain,
    Checkpoints,
    Completed,
    FileAuditLog,
    SyslogCopy,
)
from ostiary.certificates import TlsFiles, listener_files
from ostiary.clock import Clock, SystemClock
from ostiary.comparing import CandidatePart
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
    SigningKey,
    Swapper,
    ensure_signing_key,
    load_signing_key,
    public_jwks,
)
from ostiary.deciding import Policy
from ostiary.decision.cache import CachingAuthorizer
from ostiary.decision.comparison import ComparingAuthorizer
from ostiary.decision.unenforced import CountingAuthorizer
from ostiary.decision.warden import PolicyWarden
from ostiary.errors import AccessError
from ostiary.granting import worker_grants
from ostiary.identity import (
    CertificateSource,
    ListenerAuthenticator,
    MtlsAuthenticator,
    ReplayTable,
    XfccAuthenticator,
    build_authenticator,
)
from ostiary.interfaces import Authorizer, CredentialSwapper, EndpointCatalog, Upstream
from ostiary.metering import WorkerReport, report
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
from ostiary.telemetry import Tally
from ostiary.telemetry.traces import TracedAuthorizer, TracedPipeline, TracedSwapper, TracedUpstream, Traces
from ostiary.upstream import Forwarder


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
    """A worker's application, the protocol class that its listener must have, and how the worker is.

    `report` takes how many connections of clients there are, and hands over what was counted since it was asked last.
    `application` has an ASGI lifespan; whoever would rather have its errors than a server's log enters `lifespan()`.
    """

    application: DataApplication
    protocol: type[asyncio.Protocol]
    report: Callable[[int], WorkerReport]

    def lifespan(self) -> AbstractAsyncContextManager[object]:
        return self.application.router.lifespan_context(self.application)


class Part(Protocol):
    """What a worker opens before it serves, and closes when it has."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...


def compose(config: Config, *, name: str, port: int, policy: Policy, clock: Clock) -> Composed:
    """Build a worker. `name` is its own among the workers, `port` the one that its listener has."""
    key = load_signing_key(
        config.signing_key_file,
        algorithm=config.signing.algorithm,
        group_readable=config.secrets.group_readable,
    )
    tally, traces = Tally(), _traces(config, worker=name)
    audit = FileAuditLog(
        sink=audit_trail(config, worker=name),
        worker=name,
        clock=clock,
        deadline=config.audit.deadline,
        completed=tally.completed if traces is None else _both(tally.completed, traces.completed),
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
    grants = worker_grants(config, audit=audit, policy=policy.access, clock=clock, key=key)
    problems = _problems(config)
    counting = CountingAuthorizer(policy.authorizer)
    candidate = None if config.candidate is None else CandidatePart(config, config.candidate, clock=clock)
    swapper = _swapper(config, key, catalog=policy.catalog, clock=clock)
    authorizer: Authorizer = counting
    if candidate is not None:
        authorizer = ComparingAuthorizer(authorizer=authorizer, comparison=candidate.comparison)
    requests = AccessRequestBuilder(clock=clock, grants=grants.reader, endpoints=policy.predictor)
    warden = PolicyWarden(authorizer=policy.judging, requests=requests, horizon=policy.horizon, clock=clock)
    grants.cut(warden)
    swapping: CredentialSwapper = CachingSwapper(swapper, clock=clock)
    upstream: Upstream = forwarder
    if traces is not None:
        authorizer = TracedAuthorizer(authorizer, traces)
        swapping = TracedSwapper(swapping, traces)
        upstream = TracedUpstream(upstream, traces)
    pipeline = Pipeline(
        audit=audit,
        targets=_targets(config, port=port),
        concierge=_concierge(config, key),
        authenticator=authenticator,
        blocklist=grants.blocklist,
        requests=requests,
        reception=grants.reception,
        authorizer=authorizer,
        warden=warden,
        recourse=grants.recourse,
        keeper=grants.keeper,
        swapper=swapping,
        upstream=upstream,
        problems=problems,
    )

    def health() -> WorkerHealth:
        asked = policy.authorizer
        return WorkerHealth(
            worker=name,
            audit=audit.health(),
            issuers=authenticator.health(),
            services=forwarder.facts(),
            decisions=asked.facts() if isinstance(asked, CachingAuthorizer) else None,
            unenforced=counting.facts(),
            candidate=None if candidate is None else candidate.comparison.facts(),
        )

    def reported(connections: int) -> WorkerReport:
        return report(tally, health(), decisions=policy.facts(), credentials=swapper.made, connections=connections)

    optional = (files, grants.open, traces, candidate)
    parts: list[Part] = [audit, authenticator, *(part for part in optional if part is not None)]
    return Composed(
        application=DataApplication(
            pipeline if traces is None else TracedPipeline(pipeline, traces),
            lifespan=_lifespan(parts, policy=policy, forwarder=forwarder, replays=replays),
        ),
        protocol=_protocol(config, audit=audit, tally=tally, problems=problems, files=files),
        report=reported,
    )


def _traces(config: Config, *, worker: str) -> Traces | None:
    traces = config.telemetry.traces
    if traces is None:
        return None
    follow = traces.callers == "sampling"
    return Traces(endpoint=traces.endpoint, sample=traces.sample, follow=follow, worker=worker)


def _both(one: Completed, other: Completed) -> Completed:
    def completed(*facts: Any) -> None:
        one(*facts)
        other(*facts)

    return completed


def _lifespan(
    parts: Sequence[Part], *, policy: Policy, forwarder: Forwarder, replays: ReplayTable | None
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """The forwarder is open last and closed first: what is asked is answered and recorded until then."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if replays is not None:
                stack.callback(replays.close)
            for part in parts:
                await part.start()
                stack.push_async_callback(part.close)
            await stack.enter_async_context(policy.lifespan)
            await forwarder.start()
            stack.push_async_callback(forwarder.close)
            yield

    return lifespan


def _protocol(
    config: Config, *, audit: FileAuditLog, tally: Tally, problems: Problems, files: TlsFiles | None
) -> type[asyncio.Protocol]:
    """What the listener speaks, which records by itself what it refuses."""

    def refused(refusal: AccessError, facts: Refused) -> None:
        tally.refused(refusal)
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
    return strict if files is None else tls_protocol(strict, contexts=files)


def _problems(config: Config) -> Problems:
    listen = config.listen
    return Problems(
        detail=config.errors.detail,
        bearer="jwt" in listen.identity and not listen.demands_dpop,
        dpop_algorithms=listen.dpop_algorithms,
    )


def _targets(config: Config, *, port: int) -> Targets:
    return Targets(
        hosts=config.hosts,
        own_host=config.own_host,
        ports=frozenset({port, *config.listen.public_ports}),
        target_bytes=config.limits.target_bytes,
    )


def _concierge(config: Config, key: SigningKey) -> ProxyConcierge:
    listen = config.listen
    metadata = protected_resource_metadata(
        resource=config.credential_issuer,
        issuers=[one.issuer for one in config.issuers if one.use == "jwt"],
        certificate_bound=listen.asks_clients and "jwt" in listen.identity,
        dpop_algorithms=listen.dpop_algorithms,
        dpop_required=listen.demands_dpop,
    )
    return ProxyConcierge(
        cors={name: cors for name, one in config.services.items() if (cors := cors_settings(one)) is not None},
        documents={
            JWKS_PATH: (b"application/jwk-set+json", public_jwks([key.public], config.signing.extra_keys)),
            PROTECTED_RESOURCE_PATH: (b"application/json", metadata),
        },
    )


def _swapper(config: Config, key: SigningKey, *, catalog: EndpointCatalog, clock: Clock) -> Swapper:
    minter = Minter(key=key, issuer=config.credential_issuer)
    strategies = {
        name: MintedSwapper(minter=minter, catalog=catalog, clock=clock, lifetime=service.credential.lifetime)
        for name, service in config.services.items()
    }
    return Swapper(strategies)


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
    if files is not None and listen.tls is not None and listen.asks_clients:
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
