"""What is there, and whether that is enough to be given requests.

A proxy is ready while a request could be allowed by each of its workers. The keys of issuers are the one part of it
that somebody else may keep away: one whose keys have not come holds a proxy back for `KEYS_PATIENCE` seconds, because a
new one should not be given requests that those beside it can serve; after that an issuer that is down keeps nobody from
the callers of another. With the keys of none nobody can be identified, for as long as that lasts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal, TypeAlias

from ostiary.admin.candidate import candidate_document
from ostiary.audit import AuditHealth
from ostiary.clock import written_instant
from ostiary.decision.cache import CacheFacts
from ostiary.decision.comparison import CandidateFacts
from ostiary.decision.unenforced import UnenforcedFacts
from ostiary.identity import KeyHealth
from ostiary.models import Json
from ostiary.upstream import PoolFacts

KEYS_PATIENCE: Final = 60.0
"""Seconds in which the keys of an issuer are asked for twice."""

KeysState: TypeAlias = Literal["all", "some", "none"]
"""Of how many issuers the keys are there. `all`, too, where no tokens are taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHealth:
    """What a worker says of itself. `services` are its connections to each, `decisions` those that it keeps, None where
    none are; `unenforced` counts what is let through only because it is observed, and what shadows would allow.
    `candidate` is what it has compared with one, told for all workers together."""

    worker: str
    audit: AuditHealth
    issuers: tuple[KeyHealth, ...]
    services: Mapping[str, PoolFacts]
    decisions: CacheFacts | None
    unenforced: UnenforcedFacts
    candidate: CandidateFacts | None = None

    @property
    def keys(self) -> KeysState:
        ready = [issuer.ready for issuer in self.issuers]
        return "all" if all(ready) else "some" if any(ready) else "none"

    def document(self) -> dict[str, Json]:
        own = asdict(replace(self, candidate=None))
        del own["candidate"]
        return {**own, "issuers": [issuer.document() for issuer in self.issuers]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the supervisor knows. `policy` is `starting`, `serving`, `stale`, `refused` or `down`; `revision` is of the
    bundle that counts. `refused` is why one that was published is not used; an older one may be serving all the while.
    So with the configuration: `mistakes` are those of the one that was to be reloaded last, and is not in use.

    `reports` are of those workers that accept and answered. `serving_for` is how many seconds ago all of them accepted
    for the first time. `opa_restarts` counts those of a managed OPA. `candidate` is the state of the OPA that serves
    the candidate, and its revision; None where there is none.

    `observed` are the services at which callers are let through everywhere, each with the Unix second at which that
    ends; None where OPA cannot be asked.

    `tls` is `current`, or `outdated` where the listener's files have changed to something that cannot be used and what
    they held before is in use; None without TLS. Requests are served in either case. `grants` is `available`, or why
    none counts; None where nothing can be granted. Permissions that stand are served in either case. `webhooks` says by
    name how it goes with each who is told of grants: no request depends on it. `blocks` says how many
    there are in force, and how old that knowledge is; nobody is served where it was never had.
    """

    draining: bool
    policy: str
    revision: str | None
    workers: int
    reports: tuple[WorkerHealth, ...]
    serving_for: float
    tls: str | None = None
    refused: str | None = None
    mistakes: tuple[str, ...] = ()
    opa_restarts: int | None = None
    observed: Mapping[str, int] | None = None
    grants: str | None = None
    blocks: Mapping[str, Json] | None = None
    candidate: tuple[str, str | None] | None = None
    webhooks: Mapping[str, Json] | None = None

    @property
    def audit(self) -> Literal["writable", "unwritable"] | None:
        """None where no worker tells."""
        if not self.reports:
            return None
        return "writable" if all(one.audit.writable for one in self.reports) else "unwritable"

    @property
    def keys(self) -> KeysState | None:
        """Those of the worker that has the fewest. None where no worker tells."""
        return _fewest(one.keys for one in self.reports)

    @property
    def ready(self) -> bool:
        return (
            not self.draining
            and self.policy == "serving"
            and len(self.reports) == self.workers
            and self.audit == "writable"
            and (self.blocks is None or self.blocks["in_force"] is not None)
            and (self.keys == "all" or (self.keys == "some" and self.serving_for >= KEYS_PATIENCE))
        )

    def summary(self) -> dict[str, Json]:
        """What readiness depends on, why a bundle is refused, and how TLS and grants are where there are some."""
        found: dict[str, Json] = {
            "ready": self.ready,
            "draining": self.draining,
            "policy": self.policy,
            "revision": self.revision,
            "workers": self.workers,
            "workers_ready": len(self.reports),
            "audit": self.audit,
            "keys": self.keys,
        }
        beside = {"refused": self.refused, "tls": self.tls, "grants": self.grants, "blocks": self.blocks}
        return found | {name: state for name, state in beside.items() if state is not None}

    def document(self) -> dict[str, Json]:
        """All of it."""
        found = self.summary()
        found["observed"] = (
            None if self.observed is None else {name: written_instant(end) for name, end in self.observed.items()}
        )
        state = "refused" if self.mistakes else "current"
        found["configuration"] = {"state": state, "mistakes": list(self.mistakes)}
        if self.opa_restarts is not None:
            found["opa_restarts"] = self.opa_restarts
        if self.candidate is not None:
            found["candidate"] = candidate_document(
                *self.candidate, [one.candidate for one in self.reports if one.candidate]
            )
        if self.webhooks is not None:
            found["webhooks"] = dict(self.webhooks)
        return {**found, "reports": [one.document() for one in self.reports]}


def _fewest(states: Iterable[KeysState]) -> KeysState | None:
    found = set(states)
    for state in ("none", "some", "all"):
        if state in found:
            return state
    return None
