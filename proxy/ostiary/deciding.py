"""Who decides, for a worker: OPA, through the cache and the limits on what is asked."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from ostiary.clock import Clock
from ostiary.config import Config
from ostiary.decision.authorizer import OpaAuthorizer
from ostiary.decision.batching import BatchingPolicy
from ostiary.decision.cache import CachingAuthorizer
from ostiary.decision.horizon import Announcements, PolicyHorizon
from ostiary.decision.limits import LimitedAuthorizer
from ostiary.decision.revision import Revision
from ostiary.decision.staleness import StalenessLimit
from ostiary.grants.policy import AccessPolicy, OpaAccessPolicy
from ostiary.interfaces import Authorizer, EndpointCatalog, EndpointPredictor
from ostiary.opa.address import OpaAddress
from ostiary.opa.bundle import PublishedBundle
from ostiary.opa.catalog import OpaEndpointCatalog
from ostiary.opa.client import OpaClient
from ostiary.opa.monitor import BundlePublication, Judge, PolicyMonitor, StatusPublication
from ostiary.opa.record import Remembered
from ostiary.stage_settings import policy_record

_LOOK_INTERVAL: Final = 5.0
"""Seconds between two looks at OPA, at most."""
_JUDGED: Final = 10_000
"""Allowed decisions about what is open that are kept, so that many of one kind are one question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionFacts:
    """`in_flight` decisions are waited for by requests; `queued` questions are not sent yet, and `asked` went out in
    `sent` calls since the start. `trusted` is false while predictions and kept decisions are off for the bundle that
    counts."""

    in_flight: int
    queued: int
    asked: int
    sent: int
    trusted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Who decides, and by which bundle (`horizon`); who decides again about what is open, however much those have asked
    whose it is (`judging`); who knows the endpoints, of what is asked and of what was decided;
    and who says what can be asked for (`access`). `lifespan` is open while requests are served. `facts` tells what is
    asked now."""

    authorizer: Authorizer
    judging: Authorizer
    horizon: PolicyHorizon
    catalog: EndpointCatalog
    predictor: EndpointPredictor
    access: AccessPolicy
    lifespan: AbstractAsyncContextManager[object]
    facts: Callable[[], DecisionFacts]


def opa_policy(
    config: Config,
    address: OpaAddress,
    *,
    clock: Clock,
    announcements: Announcements | None = None,
    unknown: Callable[[], None] = lambda: None,
) -> Policy:
    """The policy that OPA holds: every decision is asked for, or was a moment ago. `announcements` say which bundle
    counts, and `unknown` is called when OPA has one that was not announced."""
    horizon = PolicyHorizon(announcements=announcements, unknown=unknown)
    record = policy_record(config)
    client, monitor = policy_monitor(config, address, clock=clock, horizon=horizon, remembered=record.remembered)
    catalog = OpaEndpointCatalog(source=client, clock=clock, horizon=horizon)
    staleness = StalenessLimit(freshness=monitor, most=config.opa.max_policy_age)
    batching = _batching(config, client)
    asking = _limited(config, OpaAuthorizer(policy=batching, staleness=staleness, horizon=horizon), clock=clock)
    judging = OpaAuthorizer(policy=batching.aside, staleness=staleness, horizon=horizon)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with client, monitor:
            await catalog.read()
            yield

    def facts() -> DecisionFacts:
        return DecisionFacts(
            in_flight=asking.in_flight,
            queued=batching.queued,
            asked=batching.asked,
            sent=batching.sent,
            trusted=horizon.latest is None or horizon.current is not None,
        )

    return Policy(
        authorizer=_kept(config, asking, staleness=staleness, horizon=horizon),
        # By itself: who waits together with a question of the caller's would wait for that one's turn.
        judging=_kept(config, judging, staleness=staleness, horizon=horizon, most=_JUDGED),
        horizon=horizon,
        catalog=catalog,
        predictor=catalog,
        access=OpaAccessPolicy(
            opa=client,
            staleness=staleness,
            horizon=horizon,
            admitted=asking.admitted,
        ),
        lifespan=lifespan(),
        facts=facts,
    )


def opa_authorizer(
    config: Config, *, client: OpaClient, monitor: PolicyMonitor, horizon: PolicyHorizon, clock: Clock
) -> Authorizer:
    """From the outside in: the cache, the limits on what is asked, the questions, batched."""
    staleness = StalenessLimit(freshness=monitor, most=config.opa.max_policy_age)
    asking = OpaAuthorizer(policy=_batching(config, client), staleness=staleness, horizon=horizon)
    return _kept(config, _limited(config, asking, clock=clock), staleness=staleness, horizon=horizon)


def _batching(config: Config, client: OpaClient) -> BatchingPolicy:
    return BatchingPolicy(policy=client, deadline=config.opa.deadline, lanes=min(2, len(cores())))


def _limited(config: Config, authorizer: Authorizer, *, clock: Clock) -> LimitedAuthorizer:
    limits = config.limits
    return LimitedAuthorizer(
        authorizer=authorizer,
        clock=clock,
        in_flight=limits.decisions_in_flight,
        rate=limits.decisions_per_second,
        burst=2 * limits.decisions_per_second,
    )


def _kept(
    config: Config, asking: Authorizer, *, staleness: StalenessLimit, horizon: PolicyHorizon, most: int | None = None
) -> Authorizer:
    """The same, behind a cache if there is to be one. `most` is for a smaller one than is configured."""
    limits = config.limits
    if limits.cached_decisions == 0:
        return asking
    return CachingAuthorizer(
        authorizer=asking,
        horizon=horizon,
        staleness=staleness,
        allows=limits.cached_decisions if most is None else min(most, limits.cached_decisions),
        denials=limits.cached_denials,
        per_identity=limits.cached_per_identity,
    )


def policy_monitor(
    config: Config,
    address: OpaAddress,
    *,
    clock: Clock,
    horizon: PolicyHorizon | None = None,
    judge: Callable[[OpaClient], Judge] | None = None,
    remembered: Remembered | None = None,
    confirmed: Callable[[Revision, float], None] = lambda *_: None,
    data_deadline: float = 5.0,
) -> tuple[OpaClient, PolicyMonitor]:
    """A client for OPA and a watch on it, both to be opened, in this order. `data_deadline` is the client's, all else
    is the watch's, whose judge asks by that client."""
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
    return client, PolicyMonitor(
        opa=client,
        publication=publication,
        clock=clock,
        horizon=horizon,
        judge=None if judge is None else judge(client),
        remembered=remembered,
        confirmed=confirmed,
        interval=look_interval(config),
    )


def look_interval(config: Config) -> float:
    """Seconds between two looks at OPA: several within the age that a policy may have, so that one that is confirmed at
    each of them is never stale between two."""
    return min(_LOOK_INTERVAL, config.opa.max_policy_age / 4)


def cores() -> tuple[int, ...]:
    """Those that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))
