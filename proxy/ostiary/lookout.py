"""The supervisor's look at the proxy: what is there, and what was counted, whenever somebody asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ostiary.admin.health import Health
from ostiary.comparing import CandidateOpa
from ostiary.crew import Crew
from ostiary.governing import MachinePolicy
from ostiary.metering import Meter, Seen, WorkerReport
from ostiary.page import Page
from ostiary.turnover import Turnover

if TYPE_CHECKING:  # else it is imported by the supervisor where there are grants
    from ostiary.granting.machine import MachineGrants
    from ostiary.grants.webhooks.deliverer import WebhookFacts

_WORKERS_DEADLINE: Final = 3.0
"""Seconds that a worker has to say how it is: it answers between requests, and may have a backlog of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookout:
    """Looks at the parts of one proxy. `draining` tells whether it is being ended."""

    policy: MachinePolicy
    crew: Crew
    turnover: Turnover
    grants: MachineGrants | None
    candidate: CandidateOpa | None
    page: Page
    meter: Meter
    draining: Callable[[], bool]

    async def health(self) -> Health:
        """What is there now: OPA and the workers are asked, not remembered."""
        return (await self._look())[0]

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """The same and what was counted, for Prometheus, as its Accept header has it; with the content type."""
        health, reports = await self._look()
        seen = Seen(
            health=health,
            reports=reports,
            policy_age=None if health.revision is None else self.policy.age(health.revision),
            policy_limit=self.policy.most_age,
            epoch=self.page.epoch,
            deaths=self.crew.deaths,
            webhooks=self._webhooks,
        )
        return await self.meter.exposition(seen, accept)

    @property
    def _webhooks(self) -> tuple[WebhookFacts, ...]:
        return () if self.grants is None else self.grants.webhooks

    async def _look(self) -> tuple[Health, tuple[WorkerReport, ...]]:
        (state, revision), reports, observed = await asyncio.gather(
            self.policy.look(), self.crew.reports(patience=_WORKERS_DEADLINE), self.policy.observed()
        )
        tls = self.turnover.tls
        health = Health(
            draining=self.draining(),
            policy=state,
            revision=revision,
            workers=self.crew.size,
            reports=tuple(one.health for one in reports),
            serving_for=self.crew.serving_for,
            tls=None if tls is None else tls.state,
            refused=self.policy.refused,
            mistakes=self.turnover.mistakes,
            opa_restarts=self.policy.restarts,
            observed=observed,
            grants=None if self.grants is None else self.grants.error or "available",
            blocks=None if self.grants is None else self.grants.blocks,
            webhooks={one.name: one.document() for one in self._webhooks} or None,
            candidate=None if self.candidate is None else (self.candidate.state, self.candidate.revision),
        )
        return health, reports
