"""Every metric there is: its name, its labels and what it says. docs/telemetry.md is written from this.

No label holds anything that a client chooses freely: no path, no address, no subject. Callers, services, endpoints and
permissions are names of the policy, reasons are those of `ostiary.errors`. Of each metric at most `LABEL_SETS` sets of
labels are kept; what does not fit is counted under `other`, and how often that was is a metric too.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]

LABEL_SETS: Final = 10_000
"""Of one metric. With more, what came first is told apart, and the rest is `OTHER`."""

OTHER: Final = "other"

_REQUEST_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_DECISION_SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One metric. `name` is the one that its samples have; those of a counter end in `_total`, which is part of it.

    `buckets` are the upper bounds of a histogram, ascending, without infinity.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def stem(self) -> str:
        """What OpenMetrics calls the family: the name without `_total`."""
        return self.name.removesuffix("_total") if self.kind == "counter" else self.name


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family(name=f"ostiary_{name}_total", kind="counter", help=text, labels=labels)


def _gauge(name: str, text: str, *labels: str) -> Family:
    return Family(name=f"ostiary_{name}", kind="gauge", help=text, labels=labels)


def _seconds(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Family:
    return Family(name=f"ostiary_{name}_seconds", kind="histogram", help=text, labels=labels, buckets=buckets)


# Requests.

REQUESTS: Final = _counter(
    "requests",
    "Requests that have ended, by the class of the status that was answered; none where the client had gone.",
    "caller",
    "service",
    "endpoint",
    "status",
)
REFUSALS: Final = _counter(
    "refusals",
    "Requests that the proxy refused, or broke off, with the reason. Those that were no clean request have no service.",
    "caller",
    "service",
    "endpoint",
    "reason",
)
REQUEST_SECONDS: Final = _seconds(
    "request_duration",
    "From the head of a request to the last byte of its response. The outcome is forwarded, refused or answered.",
    _REQUEST_SECONDS,
    "service",
    "outcome",
)
RECEIVED: Final = _counter("received_bytes", "Bytes of request bodies.", "service")
SENT: Final = _counter("sent_bytes", "Bytes of response bodies.", "service")
CONNECTIONS: Final = _gauge("client_connections", "Connections of clients that are open now.")

# Decisions.

DECISION_SECONDS: Final = _seconds(
    "decision_duration",
    "What a decision took. The source is opa, or cache where it was kept from a moment ago.",
    _DECISION_SECONDS,
    "source",
)
CACHE: Final = _counter(
    "decision_cache_lookups",
    "Looks for a kept decision: hit, miss, or shared, where the answer to another request's question was waited for.",
    "result",
)
CACHE_CHECKS: Final = _counter("decision_cache_checks", "Kept decisions that were asked for again and compared.")
CACHE_ENTRIES: Final = _gauge("decision_cache_entries", "Decisions that are kept now: allow or deny.", "decision")
IN_FLIGHT: Final = _gauge("decisions_in_flight", "Decisions that requests wait for now.")
QUEUED: Final = _gauge("decisions_queued", "Of those, the ones that have not been sent to OPA yet.")
QUESTIONS: Final = _counter("opa_questions", "Decisions that OPA was asked for.")
CALLS: Final = _counter("opa_calls", "Calls in which that was done: those that come together go together.")

# Permissions.

USES: Final = _counter("permission_uses", "Requests that a permission has allowed; by a grant, `grant`.", "permission")
PERMISSIONS: Final = _gauge(
    "permissions",
    "Standing permissions of the active policy: used since the proxy started, or unused.",
    "use",
)

UNENFORCED: Final = _counter(
    "unenforced",
    "Decisions that are observed, and let their request through without a permission, or that a shadow permission "
    "would have made an allow: shadowed.",
    "kind",
)

CANDIDATE: Final = _counter(
    "candidate_decisions",
    "Decisions that were put to a candidate policy: same, would-allow, would-deny, or other-reasons; unanswered where "
    "it was not there, dropped where it was too slow.",
    "result",
)

# The policy.

POLICY: Final = _gauge("policy_info", "Always 1. The label is the revision of the policy that counts.", "revision")
POLICY_AGE: Final = _gauge("policy_age_seconds", "Since the policy that counts was last known to be the published one.")
POLICY_LIMIT: Final = _gauge("policy_age_limit_seconds", "The age from which it is refused: opa.max_policy_age.")
POLICY_UP: Final = _gauge("policy_up", "1 while OPA serves a policy that is not stale.")
POLICY_REFUSED: Final = _gauge("policy_refused", "1 while the published bundle is not used: /readyz says why.")
EPOCH: Final = _gauge("epoch", "How often the workers were told that something else counts.")
TRUSTED: Final = _gauge("policy_trusted", "0 while predictions and kept decisions are off for the active policy.")
OPA_RESTARTS: Final = _counter("opa_restarts", "How often a managed OPA had to be started again.")

# Credentials and keys.

CREDENTIALS: Final = _counter("credentials", "Credentials that were made. Others were handed out again.", "service")
ISSUER_READY: Final = _gauge("issuer_ready", "1 where every worker has keys of the issuer.", "issuer")
ISSUER_AGE: Final = _gauge("issuer_keys_age_seconds", "Since the issuer's keys were fetched, or read, last.", "issuer")

# Upstreams.

UPSTREAM: Final = _gauge("upstream_connections", "Open connections to a service: busy or idle.", "service", "state")
UPSTREAM_WAITING: Final = _gauge("upstream_waiting", "Requests that wait for a connection to a service.", "service")

# The audit.

AUDIT_LINES: Final = _counter("audit_lines", "Lines that were written.")
AUDIT_BYTES: Final = _counter("audit_bytes", "Bytes of these lines.")
AUDIT_LOST: Final = _counter(
    "audit_lost", "Lines that were counted in a `lost` record instead. None of a forwarded one."
)
AUDIT_BACKLOG: Final = _gauge("audit_backlog_bytes", "Bytes of lines that wait to be written.")
AUDIT_WRITABLE: Final = _gauge("audit_writable", "1 while every worker can write its audit.")

# Webhooks of grants.

WEBHOOKS: Final = _counter(
    "webhook_deliveries",
    "What a webhook was told: delivered, attempts that failed, and what was given up.",
    "webhook",
    "result",
)
WEBHOOKS_WAITING: Final = _gauge("webhook_waiting", "What waits to be told, by any proxy of the store.", "webhook")

# The proxy.

READY: Final = _gauge("ready", "1 while /readyz says 200.")
DRAINING: Final = _gauge("draining", "1 while the proxy ends.")
WORKERS: Final = _gauge(
    "workers", "Workers: wanted is the configured number, answering those that told how they are.", "state"
)
WORKER_DEATHS: Final = _counter("worker_deaths", "Workers that ended unasked, and were started again.")
CPU: Final = _counter("cpu_seconds", "CPU time, of the supervisor and of all workers.", "process")
MEMORY: Final = _gauge("resident_memory_bytes", "Resident memory, of each process.", "process")
STARTED: Final = _gauge("start_time_seconds", "When the supervisor was started, in Unix time.")
TLS: Final = _gauge("tls_current", "0 while the files of listen.tls cannot be used and what they held before is.")
BUILD: Final = _gauge("build_info", "Always 1. The labels are the versions.", "version", "python")
OVERFLOW: Final = _counter(
    "metrics_overflow", f"What was counted under `{OTHER}`, because there are too many sets of labels.", "metric"
)

METRICS: Final = MappingProxyType(
    {family.name: family for family in tuple(globals().values()) if isinstance(family, Family)}
)
"""In the order in which they are exported."""
