"""The owner of everything that a machine has once: the signing key, the listening sockets, OPA, and the workers.

There is a supervisor even when there is one worker. Workers are processes that share the listening socket and the
OPA; one that dies is started again (`crew`). SIGTERM and SIGINT drain: workers stop accepting, finish what they have
within `limits.drain_timeout`, and OPA ends last; a second signal ends the workers at once. SIGUSR2 restarts the workers
one after the other, and costs no request. Nor does SIGHUP, after which others run with the configuration as it is then,
or the same ones as before if anything is wrong with it (`reloading`). A worker whose supervisor is gone ends by itself,
and OPA is on a leash.

Which bundle counts is decided here, for all workers: each that OPA has is vetted, and one that may be used is told of
in the shared page (`page`), so that none of them gives another's answer after that.

The port is bound first, so that one that is taken is told at once, and listened on last, so that a connection is
refused rather than left waiting while OPA starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from ostiary import deciding
from ostiary.admin.app import admin_application
from ostiary.admin.health import Health
from ostiary.certificates import listener_files
from ostiary.clock import SystemClock
from ostiary.comparing import CandidateOpa
from ostiary.config import Config
from ostiary.config.fields import UnixAddress
from ostiary.config.model import ManagedOpa as ManagedSettings
from ostiary.credential.keys import ensure_signing_key
from ostiary.crew import Crew
from ostiary.decision.horizon import announcement
from ostiary.decision.revision import Revision
from ostiary.errors import ConfigurationError
from ostiary.granting import MachineGrants
from ostiary.holding import held
from ostiary.identity import ReplayTable
from ostiary.listening import Server, bind, listen, listen_unix, passed_socket, private_directory, quiet
from ostiary.logs import configure_logging
from ostiary.metering import Meter, Seen, WorkerReport
from ostiary.opa.client import OpaClient
from ostiary.opa.external import ExternalOpa
from ostiary.opa.install import accept_opa, ensure_opa
from ostiary.opa.monitor import Judge, PolicyMonitor
from ostiary.opa.observation import ObservationWatch
from ostiary.opa.record import ConfirmationMemory
from ostiary.opa.relay import ReportRelay
from ostiary.opa.sidecar import ManagedOpa
from ostiary.opa.vetting import BundleRefused, Vetting, examine
from ostiary.page import Page
from ostiary.reloading import refuse_unreadable, reread
from ostiary.stage_settings import bundle_verification, policy_record, policy_vetting
from ostiary.telemetry.traces import demand_opentelemetry
from ostiary.worker import WorkerSettings

_log = logging.getLogger("ostiary.supervisor")

_HEALTH_DEADLINE: Final = 1.0
"""Seconds that OPA has to show that it is there, when somebody asks for the proxy's health."""
_WORKERS_DEADLINE: Final = 3.0
"""Seconds that a worker has to say how it is: it answers between requests, and may have a backlog of them."""
_CLOSING: Final = 2.0
"""Seconds that a drained worker has, beside the audit's deadline, to close its parts."""

PolicyService: TypeAlias = ManagedOpa | ExternalOpa


class Supervisor:
    """Runs a proxy until `stop()`.

    `ready` is set once every worker accepts. `data_address` is the address that was bound (port 0 is legal), known
    after `ready`. `data` is a socket that is bound already, for who had to know the port before; it is closed here.
    `file` is where the configuration is from, None where it cannot be read again.
    """

    def __init__(
        self,
        config: Config,
        *,
        file: Path | None = None,
        opa_binary: Path | None = None,
        data: socket.socket | None = None,
    ) -> None:
        self._config = config
        self._file = file
        self._opa_binary = opa_binary
        self._data = data
        self._workers = worker_count(config)
        self._crew: Crew | None = None
        self._monitor: PolicyMonitor | None = None
        self._meter: Meter | None = None
        self._observations: ObservationWatch | None = None
        self._counting: Revision | None = None
        self._page: Page | None = None
        self._tls = listener_files(config)
        self._grants: MachineGrants | None = None
        self._running: asyncio.Task[None] | None = None
        self._rolling: asyncio.Task[None] | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._reload_again = False
        self._mistakes: tuple[str, ...] = ()
        self._stops = 0
        self._serving_since = math.inf
        self.ready = asyncio.Event()
        self.data_address: tuple[str, int] = ("", 0)
        self.opa: PolicyService | None = None
        self._candidate: CandidateOpa | None = None

    def stop(self) -> None:
        """End `run`, wherever it is: drain, and end every part. Called once more, the workers are not waited for."""
        self._stops += 1
        if self._stops > 1:
            if self._crew is not None:
                self._crew.kill()
        elif self._running is not None:
            self._running.cancel()

    def restart_workers(self) -> None:
        """Replace the workers one after the other: with the same configuration, and the code that is there now."""
        if self._crew is None or self._stops:
            _log.warning("there are no workers to restart")
        elif self._rolling is None or self._rolling.done():
            self._rolling = asyncio.create_task(self._crew.roll(patience=self._patience), name="roll")

    def reload(self) -> None:
        """Take the configuration file into use as it is now, or go on as before and say why. Asked for again meanwhile,
        it is read once more afterwards."""
        if self._file is None or self._stops:
            _log.warning("the configuration cannot be read again")
        elif self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._reload(self._file), name="reload")
        else:
            self._reload_again = True

    async def _reload(self, file: Path) -> None:
        await self.ready.wait()
        while True:
            self._reload_again = False
            try:
                fresh = await asyncio.to_thread(reread, file, os.environ, running=self._config)
                await self._change(fresh)
            except ConfigurationError as error:
                self._mistakes = tuple(error.mistakes)
                for line in error.mistakes:
                    _log.error("the configuration stays as it was: %s", line)
            else:
                self._mistakes = ()
                _log.info("the configuration was reloaded")
            if not self._reload_again:
                return

    async def _change(self, fresh: Config) -> None:
        """Other workers with that configuration in the place of all of these. Raises `ConfigurationError`."""
        if self._crew is None:
            return
        if fresh.telemetry.traces is not None:
            demand_opentelemetry()
        files = listener_files(fresh)
        if files is not None:
            files.load()
        failures = await self._crew.change(self._worker_settings(fresh), patience=self._patience)
        if failures:
            raise ConfigurationError(failures)
        self._config = fresh
        configure_logging(level=fresh.logging.level, form=fresh.logging.format)
        await self._close_tls()
        self._tls = files
        if files is not None:
            await files.start()

    @property
    def _patience(self) -> float:
        """Seconds that a worker has to drain and to end."""
        return self._config.limits.drain_timeout + self._config.audit.deadline + _CLOSING

    async def run(self) -> None:
        """Start every part in order, serve until stopped, end every part in the opposite order.

        Raises `ConfigurationError` when something that people wrote stops it, `OpaNotReady` when OPA does not come up,
        and `OSError` when an address is taken or a directory cannot be used.
        """
        if self._stops:
            return
        self._running = asyncio.create_task(self._run(), name="supervisor")
        try:
            await self._running
        except asyncio.CancelledError:
            if not self._stops:
                raise

    async def _run(self) -> None:
        config = self._config
        refuse_unreadable(config)
        if config.telemetry.traces is not None:
            demand_opentelemetry()
        async with AsyncExitStack() as stack:
            address = config.listen.data
            data = stack.enter_context(contextlib.closing(self._data or bind(address.host, address.port)))
            self.data_address = data.getsockname()[:2]
            private_directory(config.state)
            await stack.enter_async_context(held(config.state))
            ensure_signing_key(
                config.signing_key_file, config.signing.algorithm, group_readable=config.secrets.group_readable
            )
            await self._watch_tls()
            stack.push_async_callback(self._close_tls)
            if config.listen.dpop is not None:
                ReplayTable.create(config.replay_file, capacity=config.listen.dpop.proofs, now=SystemClock().now())
            self._page = stack.enter_context(contextlib.closing(Page.create(self._page_file)))
            await self._keep_grants(stack)
            vetting = policy_vetting(config, policy_record(config))
            self.opa = opa = await stack.enter_async_context(self._opa(vetting))
            self._monitor = await stack.enter_async_context(self._watched(opa, vetting))
            await self._beside(stack)
            relay = await self._relay(stack)
            await stack.enter_async_context(self._admin(relay))
            listen(data)
            self._crew = crew = Crew(
                self._worker_settings(config),
                data=data,
                look=self._policy_nudged,
                counted=lambda counted: None if self._meter is None else self._meter.count(counted),
            )
            stack.push_async_callback(self._drain, crew, data)
            announcing = asyncio.create_task(self._announce(crew), name="announce")
            stack.callback(announcing.cancel)
            await crew.serve()

    async def _watch_tls(self) -> None:
        """Each worker watches the files by itself; what is seen here is what they see, and is told in the health."""
        if self._tls is not None:
            self._tls.load()
            await self._tls.start()

    async def _close_tls(self) -> None:
        if self._tls is not None:
            await self._tls.close()

    async def _keep_grants(self, stack: AsyncExitStack) -> None:
        if self._config.grants is not None:
            self._grants = MachineGrants(self._config, self._config.grants, clock=SystemClock())
            stack.push_async_callback(self._grants.close)
            await self._grants.start()

    async def _announce(self, crew: Crew) -> None:
        await crew.ready.wait()
        secured = "" if self._tls is None else ", over TLS"
        self._serving_since = time.monotonic()
        _log.info("serving on %s:%d with %d worker(s)%s", *self.data_address, crew.size, secured)
        self.ready.set()

    @property
    def _page_file(self) -> Path:
        return self._config.state / "page"

    async def _drain(self, crew: Crew, data: socket.socket) -> None:
        for task in (self._rolling, self._reloading):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        data.close()  # with the workers' copies closed too, a new connection is refused instead of left waiting
        _log.info("draining")
        await crew.drain(patience=self._patience)

    def _worker_settings(self, config: Config) -> list[WorkerSettings]:
        if self.opa is None:
            raise RuntimeError("OPA is started before workers are")
        cores = cores_of(self._workers, cores=deciding.cores(), pinned=config.pin_workers)
        return [
            WorkerSettings(
                name=f"w{number}",
                config=config,
                opa_address=self.opa.address,
                port=self.data_address[1],
                page=self._page_file,
                core=core,
            )
            for number, core in enumerate(cores)
        ]

    # OPA

    def _opa(self, vetting: Vetting) -> contextlib.AbstractAsyncContextManager[PolicyService]:
        opa = self._config.opa
        if opa.managed is not None:
            binary = self._opa_binary or managed_binary(opa.managed)
            return ManagedOpa(
                binary=binary,
                bundle=opa.managed.bundle,
                verification=bundle_verification(opa.managed),
                vetting=vetting,
                directory=self._config.state / "opa",
                on_active=self._activated,
            )
        if opa.url is None:
            raise ConfigurationError(["opa: neither 'managed' nor 'url'"])
        return ExternalOpa(address=opa.url, token=opa.bearer, ca_file=opa.ca_file, vetting=vetting)

    async def _beside(self, stack: AsyncExitStack) -> None:
        candidate, managed = self._config.candidate, self._config.opa.managed
        if candidate is not None and managed is not None:
            binary = self._opa_binary or managed_binary(managed)
            self._candidate = await stack.enter_async_context(CandidateOpa(self._config, candidate, binary=binary))

    @contextlib.asynccontextmanager
    async def _watched(self, opa: PolicyService, vetting: Vetting) -> AsyncIterator[PolicyMonitor]:
        """A managed OPA vets each bundle before anybody reaches it; of another it is found out by looking."""
        memory = ConfirmationMemory(vetting.record, most=self._config.opa.max_policy_age)
        client, monitor = deciding.policy_monitor(
            self._config,
            opa.address,
            clock=SystemClock(),
            judge=None if isinstance(opa, ManagedOpa) else partial(self._judge_by, vetting),
            remembered=vetting.record.remembered,
            confirmed=memory.confirmed,
            data_deadline=_HEALTH_DEADLINE,
        )
        self._meter = Meter(policy_limit=self._config.opa.max_policy_age, read_map=client.map)
        watch = ObservationWatch(source=client, clock=SystemClock())
        async with client:
            await monitor.look()  # so that workers begin with what is known now
            async with monitor, watch as self._observations:
                with contextlib.closing(self._meter):
                    yield monitor

    def _judge_by(self, vetting: Vetting, client: OpaClient) -> Judge:
        async def judge(revision: Revision) -> str | None:
            try:
                vetting.admit(revision)
                await examine(client, revision)
                vetting.took(revision)
            except (BundleRefused, OSError) as refused:
                self._refused(revision)
                return str(refused)
            self._activated(revision)
            return None

        return judge

    def _activated(self, revision: Revision) -> None:
        self._counting = revision
        self._announce_policy(None)

    def _refused(self, revision: Revision) -> None:
        """The one that counts goes on to, where another was refused: what it decided may be known a moment longer."""
        if self._counting == revision:
            self._counting = None
        self._announce_policy(revision)

    def _announce_policy(self, refused: Revision | None) -> None:
        text = announcement(self._counting, refused)
        if self._page is None or self._page.revision() == text:
            return
        self._page.announce(text)
        if self._observations is not None:
            self._observations.nudge()

    async def _relay(self, stack: AsyncExitStack) -> ReportRelay | None:
        """Who passes OPA's reports on, if somebody is to have them."""
        to = self._config.opa.report_to
        if to is None:
            return None
        return await stack.enter_async_context(ReportRelay(url=to.url, token_file=to.token_file, ca_file=to.ca_file))

    def _policy_nudged(self) -> None:
        """OPA says that something about its bundles is new. What, it is asked: whoever says so may be anybody."""
        if self._monitor is not None:
            self._monitor.nudge()

    # administration

    async def health(self) -> Health:
        """What is there now: OPA and the workers are asked, not remembered."""
        return (await self._look())[0]

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """The same and what was counted, for Prometheus, as its Accept header has it; with the content type."""
        health, reports = await self._look()
        monitor, meter = self._monitor, self._meter
        if monitor is None or meter is None:
            raise RuntimeError("the administrative listener is there before OPA is watched")
        seen = Seen(
            health=health,
            reports=reports,
            policy_age=None if health.revision is None else monitor.age(health.revision),
            epoch=0 if self._page is None else self._page.epoch,
            deaths=0 if self._crew is None else self._crew.deaths,
        )
        return await meter.exposition(seen, accept)

    async def _look(self) -> tuple[Health, tuple[WorkerReport, ...]]:
        (policy, revision), reports, observed = await asyncio.gather(self._policy(), self._reports(), self._observed())
        health = Health(
            draining=self._stops > 0,
            policy=policy,
            revision=revision,
            workers=self._workers,
            reports=tuple(one.health for one in reports),
            serving_for=max(time.monotonic() - self._serving_since, 0.0),
            tls=None if self._tls is None else self._tls.state,
            refused=self._refusal,
            mistakes=self._mistakes,
            opa_restarts=self.opa.restarts if isinstance(self.opa, ManagedOpa) else None,
            observed=observed,
            grants=None if self._grants is None else self._grants.error or "available",
            candidate=None if self._candidate is None else (self._candidate.state, self._candidate.revision),
        )
        return health, reports

    async def _policy(self) -> tuple[str, str | None]:
        """Its state and its revision, as OPA has it."""
        monitor = self._monitor
        if monitor is None:
            return "starting", None
        await monitor.look()
        revision = monitor.revision
        if revision is not None and monitor.age(revision) > self._config.opa.max_policy_age:
            return "stale", revision
        return monitor.state, revision

    async def _observed(self) -> Mapping[str, int] | None:
        return None if self._observations is None else await self._observations.look()

    @property
    def _refusal(self) -> str | None:
        """Why the bundle that is published, or that OPA has, is not used."""
        if isinstance(self.opa, ManagedOpa):
            return self.opa.refused
        return None if self._monitor is None else self._monitor.refused

    async def _reports(self) -> tuple[WorkerReport, ...]:
        return () if self._crew is None else await self._crew.reports(patience=_WORKERS_DEADLINE)

    @contextlib.asynccontextmanager
    async def _admin(self, relay: ReportRelay | None) -> AsyncIterator[None]:
        address = self._config.admin_address
        if isinstance(address, UnixAddress):
            listener = listen_unix(address.path)
        else:
            listener = bind(address.host, address.port)
            listen(listener)
        reported = None if relay is None else relay.pass_on
        application = admin_application(
            self.health, policy_nudged=self._policy_nudged, scrape=self.metrics, reported=reported
        )
        server = Server(quiet(application))
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="admin")
        try:
            yield
        finally:
            server.stop()
            await serving
            if isinstance(address, UnixAddress):
                address.path.unlink(missing_ok=True)


def worker_count(config: Config) -> int:
    """`auto` is one for each core that this process may use."""
    if config.workers != "auto":
        return config.workers
    return len(deciding.cores())


def cores_of(workers: int, *, cores: Sequence[int], pinned: bool) -> Sequence[int | None]:
    """The core that each worker keeps to, None where the scheduler decides: with fewer workers than cores, or more."""
    if pinned and workers == len(cores) > 1:
        return cores
    return [None] * workers


def managed_binary(managed: ManagedSettings) -> Path:
    """The OPA to start: the configured one, or as it is found or got. Blocks; raises `OpaNotFound`."""
    if managed.binary is None:
        return ensure_opa(checksum=managed.checksum, progress=_log.info)
    return accept_opa(managed.binary, checksum=managed.checksum)


def serve(config: Config, *, file: Path) -> None:
    """Run a proxy until SIGTERM or SIGINT. Blocks, and raises what `Supervisor.run` and `ensure_opa` do.

    `file` is where the configuration is from: SIGHUP reads it again. It listens on the socket that was passed to this
    process, if one was (`passed_socket`).
    """
    address = config.listen.data
    data = passed_socket(os.environ, host=address.host, port=address.port)
    managed = config.opa.managed
    # Before there is an event loop, because it can take minutes and has to end by Ctrl-C.
    binary = None if managed is None else managed_binary(managed)
    asyncio.run(_run_until_signalled(Supervisor(config, file=file, opa_binary=binary, data=data)))


async def _run_until_signalled(supervisor: Supervisor) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    loop.add_signal_handler(signal.SIGHUP, supervisor.reload)
    loop.add_signal_handler(signal.SIGUSR2, supervisor.restart_workers)
    await supervisor.run()
