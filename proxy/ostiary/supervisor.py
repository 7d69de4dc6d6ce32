"""The owner of everything that a machine has once: the signing key, the listening sockets, OPA, and the workers.

There is a supervisor even when there is one worker. Workers are processes that share the listening socket and the
OPA; one that dies is started again (`crew`). SIGTERM and SIGINT drain: workers stop accepting, finish what they have
within `limits.drain_timeout`, and OPA ends last; a second signal ends the workers at once. SIGUSR2 restarts the workers
one after the other, and costs no request. A worker whose supervisor is gone ends by itself, and OPA is on a leash.

Which bundle counts is decided here, for all workers: OPA with a new one is told of in the shared page (`page`) as soon
as it answers, so that none of them gives an older answer after that.

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
from pathlib import Path
from typing import Final, TypeAlias

from ostiary import deciding
from ostiary.admin.app import admin_application
from ostiary.admin.health import Health, WorkerHealth
from ostiary.certificates import listener_files
from ostiary.clock import SystemClock
from ostiary.config import Config
from ostiary.config.fields import UnixAddress
from ostiary.config.model import ManagedOpa as ManagedSettings
from ostiary.credential.keys import ensure_signing_key
from ostiary.crew import Crew
from ostiary.decision.horizon import PolicyHorizon
from ostiary.decision.revision import Revision
from ostiary.errors import ConfigurationError
from ostiary.identity import ReplayTable
from ostiary.listening import Server, bind, listen, listen_unix, passed_socket, private_directory, quiet
from ostiary.opa.address import OpaAddress
from ostiary.opa.archive import ArchiveError
from ostiary.opa.external import ExternalOpa
from ostiary.opa.install import accept_opa, ensure_opa
from ostiary.opa.monitor import PolicyMonitor
from ostiary.opa.observation import ObservationWatch
from ostiary.opa.sidecar import ManagedOpa
from ostiary.page import Page
from ostiary.stage_settings import bundle_verification
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
    """

    def __init__(self, config: Config, *, opa_binary: Path | None = None, data: socket.socket | None = None) -> None:
        self._config = config
        self._opa_binary = opa_binary
        self._data = data
        self._workers = worker_count(config)
        self._crew: Crew | None = None
        self._monitor: PolicyMonitor | None = None
        self._observations: ObservationWatch | None = None
        self._horizon = PolicyHorizon()
        self._page: Page | None = None
        self._tls = listener_files(config)
        self._running: asyncio.Task[None] | None = None
        self._rolling: asyncio.Task[None] | None = None
        self._stops = 0
        self._serving_since = math.inf
        self.ready = asyncio.Event()
        self.data_address: tuple[str, int] = ("", 0)
        self.opa: PolicyService | None = None

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
        async with AsyncExitStack() as stack:
            address = config.listen.data
            data = stack.enter_context(contextlib.closing(self._data or bind(address.host, address.port)))
            self.data_address = data.getsockname()[:2]
            private_directory(config.state)
            ensure_signing_key(
                config.signing_key_file, config.signing.algorithm, group_readable=config.secrets.group_readable
            )
            await self._watch_tls(stack)
            if config.listen.dpop is not None:
                ReplayTable.create(config.replay_file, capacity=config.listen.dpop.proofs, now=SystemClock().now())
            self._page = stack.enter_context(contextlib.closing(Page.create(self._page_file)))
            self.opa = opa = await stack.enter_async_context(self._opa())
            self._monitor = await stack.enter_async_context(self._watched(opa.address))
            await stack.enter_async_context(self._admin())
            listen(data)
            self._crew = crew = self._new_crew(opa.address, data)
            stack.push_async_callback(self._drain, crew, data)
            announcing = asyncio.create_task(self._announce(crew), name="announce")
            stack.callback(announcing.cancel)
            await crew.serve()

    async def _watch_tls(self, stack: AsyncExitStack) -> None:
        """Each worker watches the files by itself; what is seen here is what they see, and is told in the health."""
        if self._tls is not None:
            self._tls.load()
            await self._tls.start()
            stack.push_async_callback(self._tls.close)

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
        if self._rolling is not None:
            self._rolling.cancel()
            await asyncio.gather(self._rolling, return_exceptions=True)
        data.close()  # with the workers' copies closed too, a new connection is refused instead of left waiting
        _log.info("draining")
        await crew.drain(patience=self._patience)

    def _new_crew(self, opa: OpaAddress, data: socket.socket) -> Crew:
        cores = cores_of(self._workers, cores=deciding.cores(), pinned=self._config.pin_workers)
        return Crew(
            [
                WorkerSettings(
                    name=f"w{number}",
                    config=self._config,
                    opa_address=opa,
                    port=self.data_address[1],
                    page=self._page_file,
                    core=core,
                )
                for number, core in enumerate(cores)
            ],
            data=data,
        )

    # OPA

    def _opa(self) -> contextlib.AbstractAsyncContextManager[PolicyService]:
        opa = self._config.opa
        if opa.managed is not None:
            binary = self._opa_binary or managed_binary(opa.managed)
            return ManagedOpa(
                binary=binary,
                bundle=opa.managed.bundle,
                verification=bundle_verification(opa.managed),
                directory=self._config.state / "opa",
                on_active=self._activated,
            )
        if opa.url is None:
            raise ConfigurationError(["opa: neither 'managed' nor 'url'"])
        return ExternalOpa(address=opa.url, token=opa.bearer, ca_file=opa.ca_file)

    @contextlib.asynccontextmanager
    async def _watched(self, address: OpaAddress) -> AsyncIterator[PolicyMonitor]:
        client, monitor = deciding.policy_monitor(
            self._config,
            address,
            clock=SystemClock(),
            horizon=self._horizon,
            changed=self._tell_workers,
            data_deadline=_HEALTH_DEADLINE,
        )
        watch = ObservationWatch(source=client, clock=SystemClock())
        async with client, monitor, watch as self._observations:
            yield monitor

    def _activated(self, revision: Revision) -> None:
        self._horizon.saw(str(revision), asked=self._horizon.changes)
        self._tell_workers()

    def _tell_workers(self) -> None:
        if self._page is not None:
            self._page.announce(str(self._horizon.latest))
        if self._observations is not None:
            self._observations.nudge()

    def _policy_nudged(self) -> None:
        """OPA says that something about its bundles is new. What, it is asked: whoever says so may be anybody."""
        if self._monitor is not None:
            self._monitor.nudge()

    # administration

    async def health(self) -> Health:
        """What is there now: OPA and the workers are asked, not remembered."""
        (policy, revision), reports, observed = await asyncio.gather(self._policy(), self._reports(), self._observed())
        return Health(
            draining=self._stops > 0,
            policy=policy,
            revision=revision,
            workers=self._workers,
            reports=reports,
            serving_for=max(time.monotonic() - self._serving_since, 0.0),
            tls=None if self._tls is None else self._tls.state,
            opa_restarts=self.opa.restarts if isinstance(self.opa, ManagedOpa) else None,
            observed=observed,
        )

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

    async def _reports(self) -> tuple[WorkerHealth, ...]:
        return () if self._crew is None else await self._crew.health(patience=_WORKERS_DEADLINE)

    @contextlib.asynccontextmanager
    async def _admin(self) -> AsyncIterator[None]:
        address = self._config.admin_address
        if isinstance(address, UnixAddress):
            listener = listen_unix(address.path)
        else:
            listener = bind(address.host, address.port)
            listen(listener)
        server = Server(quiet(admin_application(self.health, policy_nudged=self._policy_nudged)))
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


def refuse_unreadable(config: Config) -> None:
    """Raise `ConfigurationError` with every file of an issuer that cannot be read.

    Later they may come and go, and the keys that were read last are used; at the start there are none. So with the
    key that the bundle has to be signed with.
    """
    mistakes = []
    managed = config.opa.managed
    verification = None if managed is None else bundle_verification(managed)
    if verification is not None:
        try:
            verification.public_key()
        except ArchiveError as error:
            mistakes.append(f"{verification.key}: the key_file of the bundle cannot be used: {error}")
    for one in config.issuers:
        for key, path in (("key_file", one.key_file), ("ca_file", one.ca_file), ("token_file", one.token_file)):
            if path is None:
                continue
            try:
                path.open("rb").close()
            except OSError as error:
                mistakes.append(f"{path}: the {key} of the issuer {one.issuer} cannot be read: {error.strerror}")
    if mistakes:
        raise ConfigurationError(mistakes)


def managed_binary(managed: ManagedSettings) -> Path:
    """The OPA to start: the configured one, or as it is found or got. Blocks; raises `OpaNotFound`."""
    if managed.binary is None:
        return ensure_opa(checksum=managed.checksum, progress=_log.info)
    return accept_opa(managed.binary, checksum=managed.checksum)


def serve(config: Config) -> None:
    """Run a proxy until SIGTERM, SIGINT or SIGHUP. Blocks, and raises what `Supervisor.run` and `ensure_opa` do.

    It listens on the socket that was passed to this process, if one was (`passed_socket`).
    """
    address = config.listen.data
    data = passed_socket(os.environ, host=address.host, port=address.port)
    managed = config.opa.managed
    # Before there is an event loop, because it can take minutes and has to end by Ctrl-C.
    binary = None if managed is None else managed_binary(managed)
    asyncio.run(_run_until_signalled(Supervisor(config, opa_binary=binary, data=data)))


async def _run_until_signalled(supervisor: Supervisor) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, supervisor.stop)
    loop.add_signal_handler(signal.SIGUSR2, supervisor.restart_workers)
    await supervisor.run()
