"""The metrics of a proxy, put together: what its workers report, what the supervisor sees itself, and how both become
what Prometheus reads. `telemetry` has the names and the arithmetic, and knows none of the parts that are counted here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import ostiary
from ostiary.admin.health import Health, WorkerHealth
from ostiary.deciding import DecisionFacts
from ostiary.decision.query import Answer
from ostiary.errors import PolicyUnavailable
from ostiary.telemetry import (
    CONTENT_TYPES,
    Counted,
    Family,
    PermissionUse,
    Tally,
    Totals,
    catalogue,
    prefers_openmetrics,
    render,
    standing_permissions,
)
from ostiary.telemetry.tally import Labels
from ostiary.telemetry.totals import Value

if TYPE_CHECKING:  # else it is imported by the supervisor where somebody is to be told: with httpx, a tenth of a start
    from ostiary.grants.webhooks.deliverer import WebhookFacts

_log = logging.getLogger("ostiary.telemetry")

_SUPERVISOR: Final = "supervisor"
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_STATM: Final = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """What a worker tells when it is asked: how it is, and what it has counted since it was asked last.

    `memory` is resident, in bytes; None where the operating system does not tell.
    """

    health: WorkerHealth
    counted: Counted
    decisions: DecisionFacts
    connections: int
    memory: int | None


def report(
    tally: Tally,
    health: WorkerHealth,
    *,
    decisions: DecisionFacts,
    credentials: Mapping[str, int],
    connections: int,
) -> WorkerReport:
    """A worker's report of this moment. `credentials` are those made since its start, by service."""
    audit, cache = health.audit, health.decisions
    counts: dict[tuple[Family, Labels], float] = {
        (catalogue.QUESTIONS, ()): decisions.asked,
        (catalogue.CALLS, ()): decisions.sent,
        (catalogue.AUDIT_LINES, ()): audit.lines,
        (catalogue.AUDIT_BYTES, ()): audit.bytes,
        (catalogue.AUDIT_LOST, ()): audit.lost,
        (catalogue.UNENFORCED, ("observed",)): health.unenforced.observed,
        (catalogue.UNENFORCED, ("shadowed",)): health.unenforced.shadowed,
        (catalogue.CPU, (health.worker,)): time.process_time(),
        **{(catalogue.CREDENTIALS, (service,)): made for service, made in credentials.items()},
    }
    if cache is not None:
        counts |= {
            (catalogue.CACHE, ("hit",)): cache.hits,
            (catalogue.CACHE, ("miss",)): cache.misses - cache.shared,
            (catalogue.CACHE, ("shared",)): cache.shared,
            (catalogue.CACHE_CHECKS, ()): cache.checked,
        }
    if (candidate := health.candidate) is not None:
        counts |= {(catalogue.CANDIDATE, (result,)): count for result, count in candidate.results.items()}
    return WorkerReport(
        health=health,
        counted=tally.take({(family.name, labels): count for (family, labels), count in counts.items()}),
        decisions=decisions,
        connections=connections,
        memory=resident_memory(),
    )


def resident_memory() -> int | None:
    """Bytes of this process; None where the operating system does not tell."""
    try:
        return int(_STATM.read_bytes().split()[1]) * _PAGE_BYTES
    except OSError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the supervisor sees when somebody asks for metrics. `policy_age` is in seconds, None without a policy, and
    `policy_limit` is the age from which it is refused."""

    health: Health
    reports: tuple[WorkerReport, ...]
    policy_age: float | None
    policy_limit: float
    epoch: int
    deaths: int
    webhooks: tuple[WebhookFacts, ...] = ()


class Meter:
    """The supervisor's: adds up what workers count, and renders it. `read_map` reads the compiled permission map from
    OPA."""

    def __init__(self, *, read_map: Callable[[], Awaitable[Answer]]) -> None:
        self._read_map = read_map
        self._started = time.time()
        self._totals = Totals()
        self._use = PermissionUse()
        self._reading: asyncio.Task[None] | None = None

    def count(self, counted: Counted) -> None:
        """A worker has told."""
        self._totals.add(counted)
        self._use.used(permission for ending in counted.endings if (permission := ending[3]) is not None)

    def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()

    async def exposition(self, seen: Seen, accept: str) -> tuple[bytes, str]:
        """The document that a client with this Accept header gets, and its content type."""
        await self._know_permissions(seen.health.revision)
        openmetrics = prefers_openmetrics(accept)
        return render(self._samples(seen), openmetrics=openmetrics), CONTENT_TYPES[openmetrics]

    async def _know_permissions(self, revision: str | None) -> None:
        """Read them once for each revision. Whoever asks meanwhile waits for the same reading."""
        if revision is None or revision == self._use.revision:
            return
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_permissions(revision), name="ostiary-permissions")
        await asyncio.shield(self._reading)

    async def _read_permissions(self, revision: str) -> None:
        """Of this one: OPA may have another meanwhile, or one that is refused."""
        try:
            answer = await self._read_map()
            found = await asyncio.to_thread(standing_permissions, answer.result)
        except (PolicyUnavailable, ValueError) as error:
            _log.warning("the permissions of the policy cannot be counted: %s", error)
            return
        if answer.revision == revision:
            self._use.know(revision, found)

    def _samples(self, seen: Seen) -> dict[str, Mapping[Labels, Value]]:
        samples: dict[str, dict[Labels, Value]] = {name: {**found} for name, found in self._totals.samples.items()}
        for family, labels, value in (*self._own(seen), *_workers(seen.reports)):
            samples.setdefault(family.name, {})[labels] = value
        return {**samples}

    def _own(self, seen: Seen) -> Iterable[tuple[Family, Labels, Value]]:
        """What the supervisor knows without its workers."""
        health = seen.health
        yield catalogue.POLICY_UP, (), float(health.policy == "serving")
        yield catalogue.POLICY_LIMIT, (), seen.policy_limit
        yield catalogue.POLICY_REFUSED, (), float(health.refused is not None)
        yield catalogue.EPOCH, (), seen.epoch
        yield catalogue.READY, (), float(health.ready)
        yield catalogue.DRAINING, (), float(health.draining)
        yield catalogue.WORKERS, ("wanted",), health.workers
        yield catalogue.WORKERS, ("answering",), len(health.reports)
        yield catalogue.WORKER_DEATHS, (), seen.deaths
        yield catalogue.CPU, (_SUPERVISOR,), time.process_time()
        yield catalogue.STARTED, (), self._started
        yield catalogue.BUILD, (ostiary.__version__, platform.python_version()), 1
        if health.revision is not None:
            yield catalogue.POLICY, (health.revision,), 1
        if seen.policy_age is not None:
            yield catalogue.POLICY_AGE, (), seen.policy_age
        if health.opa_restarts is not None:
            yield catalogue.OPA_RESTARTS, (), health.opa_restarts
        if health.tls is not None:
            yield catalogue.TLS, (), float(health.tls == "current")
        if (memory := resident_memory()) is not None:
            yield catalogue.MEMORY, (_SUPERVISOR,), memory
        for use, count in (self._use.counts() or {}).items():
            yield catalogue.PERMISSIONS, (use,), count
        for one in seen.webhooks:
            yield catalogue.WEBHOOKS, (one.name, "delivered"), one.delivered
            yield catalogue.WEBHOOKS, (one.name, "failed"), one.failed
            yield catalogue.WEBHOOKS, (one.name, "given-up"), one.given_up
            yield catalogue.WEBHOOKS_WAITING, (one.name,), one.waiting


def _workers(reports: Iterable[WorkerReport]) -> Iterable[tuple[Family, Labels, Value]]:
    """What is so now in the workers that answered: added up, or the worst of them."""
    reports = tuple(reports)
    if not reports:
        return
    sums: dict[tuple[Family, Labels], float] = {}

    def add(family: Family, labels: Labels, value: float) -> None:
        sums[family, labels] = sums.get((family, labels), 0) + value

    for one in reports:
        add(catalogue.CONNECTIONS, (), one.connections)
        add(catalogue.IN_FLIGHT, (), one.decisions.in_flight)
        add(catalogue.QUEUED, (), one.decisions.queued)
        add(catalogue.AUDIT_BACKLOG, (), one.health.audit.backlog)
        for service, pool in one.health.services.items():
            add(catalogue.UPSTREAM, (service, "busy"), pool.open - pool.idle)
            add(catalogue.UPSTREAM, (service, "idle"), pool.idle)
            add(catalogue.UPSTREAM_WAITING, (service,), pool.waiting)
        if (cache := one.health.decisions) is not None:
            add(catalogue.CACHE_ENTRIES, ("allow",), cache.allows)
            add(catalogue.CACHE_ENTRIES, ("deny",), cache.denials)
        if one.memory is not None:
            add(catalogue.MEMORY, (one.health.worker,), one.memory)
    for (family, labels), value in sums.items():
        yield family, labels, value
    yield catalogue.TRUSTED, (), float(all(one.decisions.trusted for one in reports))
    yield catalogue.AUDIT_WRITABLE, (), float(all(one.health.audit.writable for one in reports))
    yield from _issuers(reports)


def _issuers(reports: Iterable[WorkerReport]) -> Iterable[tuple[Family, Labels, Value]]:
    ready: dict[str, bool] = {}
    ages: dict[str, float] = {}
    for keys in (keys for one in reports for keys in one.health.issuers):
        ready[keys.issuer] = ready.get(keys.issuer, True) and keys.ready
        if keys.age is not None:
            ages[keys.issuer] = max(ages.get(keys.issuer, 0.0), keys.age)
    for issuer, good in ready.items():
        yield catalogue.ISSUER_READY, (issuer,), float(good)
    for issuer, age in ages.items():
        yield catalogue.ISSUER_AGE, (issuer,), age
