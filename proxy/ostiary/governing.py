"""The policy of a machine, for the supervisor: the OPA that holds it, and which of its bundles counts.

That is decided once, for all workers: each bundle that OPA has is vetted, and one that may be used is told of in the
shared page (`page`), so that none of them gives another's answer after that. What a worker asks is in `deciding`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from ostiary.clock import SystemClock
from ostiary.config import Config
from ostiary.config.opa import ManagedOpa as ManagedSettings
from ostiary.deciding import look_interval, policy_monitor
from ostiary.decision.horizon import announcement
from ostiary.decision.query import Answer
from ostiary.decision.revision import Revision
from ostiary.decision.verdict import Verdict
from ostiary.errors import ConfigurationError
from ostiary.opa.address import OpaAddress
from ostiary.opa.client import OpaClient
from ostiary.opa.external import ExternalOpa
from ostiary.opa.install import accept_opa, ensure_opa
from ostiary.opa.monitor import Judge, PolicyMonitor
from ostiary.opa.observation import ObservationWatch
from ostiary.opa.record import ConfirmationMemory
from ostiary.opa.sidecar import ManagedOpa
from ostiary.opa.vetting import BundleRefused, Vetting, examine
from ostiary.page import Page
from ostiary.stage_settings import bundle_verification, policy_record, policy_vetting

_log = logging.getLogger("ostiary.supervisor")

_DATA_DEADLINE: Final = 1.0
"""Seconds that OPA has to say what its policy holds, when somebody asks how the proxy is."""

PolicyService: TypeAlias = ManagedOpa | ExternalOpa


class MachinePolicy:
    """What the supervisor knows of it. `machine_policy` makes one."""

    def __init__(
        self,
        opa: PolicyService,
        *,
        client: OpaClient,
        monitor: PolicyMonitor,
        observations: ObservationWatch,
        announcer: _Announcer,
        memory: ConfirmationMemory,
        most_age: float,
    ) -> None:
        self._opa = opa
        self._client = client
        self._monitor = monitor
        self._observations = observations
        self._announcer = announcer
        self._memory = memory
        self.most_age = most_age
        """Seconds from which a policy is stale: as the workers have it."""

    @property
    def address(self) -> OpaAddress:
        return self._opa.address

    @property
    def pid(self) -> int | None:
        """The process of a managed OPA that serves, if one does."""
        return self._opa.pid if isinstance(self._opa, ManagedOpa) else None

    @property
    def restarts(self) -> int | None:
        """Those of a managed OPA."""
        return self._opa.restarts if isinstance(self._opa, ManagedOpa) else None

    @property
    def refused(self) -> str | None:
        """Why the bundle that is published, or that OPA has, is not used."""
        return self._opa.refused if isinstance(self._opa, ManagedOpa) else self._monitor.refused

    def nudge(self) -> None:
        """Something about OPA's bundles is said to be new. What, it is asked: whoever says so may be anybody."""
        self._monitor.nudge()

    def age(self, revision: str) -> float:
        """Seconds since `revision` was last known to be the published one."""
        return self._monitor.age(revision)

    @property
    def verdict(self) -> Verdict:
        """What was made of OPA's bundle when it was looked at last."""
        return Verdict(active=self._monitor.revision, counts=self._counts, refused=self.refused)

    async def judged(self) -> Verdict:
        """What is made of the bundle that OPA has now."""
        await self._monitor.look()
        return self.verdict

    def watched_by(self, told: Callable[[Verdict], None]) -> None:
        """From now on tell the verdict after each look."""
        self._monitor.looked = lambda: told(self.verdict)

    def reconfigure(self, config: Config) -> None:
        """Go by what of this configuration can be changed while the proxy runs."""
        self.most_age = config.opa.max_policy_age
        self._memory.limit(self.most_age)
        self._monitor.interval = look_interval(config)
        self._monitor.nudge()

    async def look(self) -> tuple[str, str | None]:
        """Its state, as in `Health`, and the revision that counts. OPA is asked, not remembered."""
        await self._monitor.look()
        state, counts = self._monitor.state, self._counts
        if state != "refused" and counts is not None and self.age(counts) > self.most_age:
            return "stale", counts
        return state, counts

    @property
    def _counts(self) -> str | None:
        counts = self._announcer.counts
        return None if counts is None else str(counts)

    async def observed(self) -> Mapping[str, int] | None:
        """As `Health` has it."""
        return await self._observations.look()

    async def read_map(self) -> Answer:
        """The compiled permission map. Raises `PolicyUnavailable`."""
        return await self._client.map()


@contextlib.asynccontextmanager
async def machine_policy(config: Config, *, page: Page, binary: Path | None) -> AsyncIterator[MachinePolicy]:
    """Kept as long as this is open: entered once OPA serves a bundle that may be used, which `page` then says.

    `binary` is the OPA to start, if it is a managed one. Raises what `ManagedOpa` and `ExternalOpa` do.
    """
    announcer = _Announcer(page)
    vetting = policy_vetting(config, policy_record(config))
    clock = SystemClock()
    async with _service(config, vetting, announcer, binary=binary) as opa:
        memory = ConfirmationMemory(vetting.record, most=config.opa.max_policy_age)
        client, monitor = policy_monitor(
            config,
            opa.address,
            clock=clock,
            # A managed OPA vets each bundle before anybody reaches it; of another it is found out by looking.
            judge=None if isinstance(opa, ManagedOpa) else partial(_judge_by, vetting, announcer),
            remembered=vetting.record.remembered,
            confirmed=memory.confirmed,
            data_deadline=_DATA_DEADLINE,
        )
        observations = ObservationWatch(source=client, clock=clock)
        announcer.told = observations.nudge
        async with client:
            await monitor.look()  # so that workers begin with what is known now
            async with monitor, observations:
                yield MachinePolicy(
                    opa,
                    client=client,
                    monitor=monitor,
                    observations=observations,
                    announcer=announcer,
                    memory=memory,
                    most_age=config.opa.max_policy_age,
                )


class _Announcer:
    """Keeps the page at the bundle that `counts`. `told` is called when that has another."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.counts: Revision | None = None
        self.told: Callable[[], None] = lambda: None

    def activated(self, revision: Revision) -> None:
        self.counts = revision
        self._announce(None)

    def refused(self, revision: Revision) -> None:
        """The one that counts goes on to, where another was refused: what it decided may be known a moment longer."""
        if self.counts == revision:
            self.counts = None
        self._announce(revision)

    def _announce(self, refused: Revision | None) -> None:
        text = announcement(self.counts, refused)
        if self._page.revision() != text:
            self._page.announce(text)
            self.told()


def _service(config: Config, vetting: Vetting, announcer: _Announcer, *, binary: Path | None) -> PolicyService:
    opa = config.opa
    if opa.managed is not None:
        return ManagedOpa(
            binary=binary or managed_binary(opa.managed),
            bundle=opa.managed.bundle,
            verification=bundle_verification(opa.managed),
            vetting=vetting,
            directory=config.state / "opa",
            on_active=announcer.activated,
        )
    if opa.url is None:
        raise ConfigurationError(["opa: neither 'managed' nor 'url'"])
    return ExternalOpa(address=opa.url, token=opa.bearer, ca_file=opa.ca_file, vetting=vetting)


def _judge_by(vetting: Vetting, announcer: _Announcer, client: OpaClient) -> Judge:
    async def judge(revision: Revision) -> str | None:
        before = vetting.record.remembered
        try:
            await vetting.admit(revision)
            await examine(client, revision)
            vetting.took(revision)
        except (BundleRefused, OSError) as refused:
            announcer.refused(revision)
            return str(refused)
        if before is not None and before.active != revision:
            _log.info("the bundle %s is active, it was %s", revision, before.active)
        announcer.activated(revision)
        return None

    return judge


def managed_binary(managed: ManagedSettings) -> Path:
    """The OPA to start: the configured one, or as it is found or got. Blocks; raises `OpaNotFound`."""
    if managed.binary is None:
        return ensure_opa(checksum=managed.checksum, progress=_log.info)
    return accept_opa(managed.binary, checksum=managed.checksum)
