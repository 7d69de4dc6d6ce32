"""The owner of everything that a machine has once: the signing key, the listening sockets, OPA, and the workers.

There is a supervisor even when there is one worker. Workers are processes that share the listening socket and the
OPA; one that dies is started again (`crew`). SIGTERM and SIGINT drain: workers stop accepting, finish what they have
within `limits.drain_timeout`, and OPA ends last; a second signal ends the workers at once. SIGUSR2 restarts the workers
one after the other, and costs no request. Nor does SIGHUP, after which others run with the configuration as it is then,
or the same ones as before if anything is wrong with it (`turnover`). A worker whose supervisor is gone ends by itself,
and OPA is on a leash.

Which bundle counts is decided once for all workers (`governing`), and how they all are is looked at when somebody asks
(`lookout`).

The port is bound first, so that one that is taken is told at once, and listened on last, so that a connection is
refused rather than left waiting while OPA starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from ostiary import deciding
from ostiary.admin.app import admin_application
from ostiary.admin.guard import OwnHostOnly
from ostiary.certificates import TlsFiles, listener_files
from ostiary.clock import SystemClock
from ostiary.comparing import CandidateOpa
from ostiary.config import Config
from ostiary.config.fields import TcpAddress, UnixAddress
from ostiary.credential.keys import ensure_signing_key
from ostiary.crew import Crew
from ostiary.governing import MachinePolicy, machine_policy, managed_binary
from ostiary.holding import held
from ostiary.identity import ReplayTable
from ostiary.listening import Server, bind, listen, listen_unix, passed_socket, private_directory, quiet
from ostiary.lookout import Lookout
from ostiary.metering import Meter
from ostiary.opa.address import OpaAddress
from ostiary.page import Page
from ostiary.reloading import refuse_unusable_files
from ostiary.telemetry.traces import demand_opentelemetry
from ostiary.turnover import Turnover
from ostiary.worker_messages import WorkerSettings

if TYPE_CHECKING:  # else it is imported where there are grants
    from ostiary.granting.machine import MachineGrants

_log = logging.getLogger("ostiary.supervisor")


class Supervisor:
    """Runs a proxy until `stop()`.

    `ready` is set once every worker accepts, and `policy` is there then. `data` is a socket that is bound already, for
    who had to know the port before; it is closed here. `file` is where the configuration is from, None where it cannot
    be read again.
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
        self._running: asyncio.Task[None] | None = None
        self._crew: Crew | None = None
        self._turnover: Turnover | None = None
        self._reload_wanted = asyncio.Event()
        self._stops = 0
        self.ready = asyncio.Event()
        self.policy: MachinePolicy | None = None

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
        if self._turnover is None or self._stops:
            _log.warning("there are no workers to restart")
        else:
            self._turnover.roll()

    def reload(self) -> None:
        """Take the configuration file into use as it is now, or go on as before and say why. Asked for again meanwhile,
        it is read once more afterwards."""
        if self._file is None or self._stops:
            _log.warning("the configuration cannot be read again")
        else:
            self._reload_wanted.set()

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
        refuse_unusable_files(config)
        if config.telemetry.traces is not None:
            demand_opentelemetry()
        async with AsyncExitStack() as stack:
            address = config.listen.data
            data = stack.enter_context(contextlib.closing(self._data or bind(address.host, address.port)))
            host, port = data.getsockname()[:2]
            private_directory(config.state)
            await stack.enter_async_context(held(config.state))
            tls = _prepare(config)
            page = stack.enter_context(contextlib.closing(Page.create(_page_file(config))))
            grants = await self._grants(stack)
            policy = machine_policy(config, page=page, binary=self._opa_binary)
            self.policy = await stack.enter_async_context(policy)
            candidate = await self._beside(stack)
            meter = Meter(read_map=self.policy.read_map)
            stack.callback(meter.close)
            settings = partial(
                worker_settings,
                workers=worker_count(config),
                opa_address=self.policy.address,
                port=port,
            )
            crew = Crew(settings(config), data=data, look=self.policy.nudge, counted=meter.count)
            turnover = Turnover(
                crew,
                config,
                settings=settings,
                changed=self.policy.reconfigure,
                tls=tls,
                file=self._file,
                wanted=self._reload_wanted,
            )
            lookout = Lookout(
                policy=self.policy,
                crew=crew,
                turnover=turnover,
                grants=grants,
                candidate=candidate,
                page=page,
                meter=meter,
                draining=lambda: self._stops > 0,
            )
            await self._administer(stack, lookout)
            listen(data)
            self._crew, self._turnover = crew, turnover
            stack.push_async_callback(_drain, crew, turnover, data)
            await stack.enter_async_context(turnover)
            announcing = asyncio.create_task(self._announce(crew, host, port, secured=tls is not None), name="announce")
            stack.callback(announcing.cancel)
            await crew.serve()

    async def _grants(self, stack: AsyncExitStack) -> MachineGrants | None:
        if self._config.grants is None:
            return None
        from ostiary.granting.machine import MachineGrants

        grants = MachineGrants(self._config, self._config.grants, clock=SystemClock())
        stack.push_async_callback(grants.close)
        await grants.start()
        return grants

    async def _beside(self, stack: AsyncExitStack) -> CandidateOpa | None:
        candidate, managed = self._config.candidate, self._config.opa.managed
        if candidate is None or managed is None:
            return None
        binary = self._opa_binary or managed_binary(managed)
        return await stack.enter_async_context(CandidateOpa(self._config, candidate, binary=binary))

    async def _administer(self, stack: AsyncExitStack, lookout: Lookout) -> None:
        """Serve the administrative listener, and pass OPA's reports on if somebody is to have them."""
        relay, to = None, self._config.opa.report_to
        if to is not None:
            from ostiary.opa.relay import ReportRelay  # imported here: with httpx, a tenth of a start

            judged = lookout.policy.judged
            relay = ReportRelay(url=to.url, judged=judged, token_file=to.token_file, ca_file=to.ca_file)
            await stack.enter_async_context(relay)
            lookout.policy.watched_by(relay.look_again)
        application = admin_application(
            lookout.health,
            policy_nudged=lookout.policy.nudge,
            scrape=lookout.metrics,
            reported=None if relay is None else relay.pass_on,
        )
        await stack.enter_async_context(_served(application, self._config.admin_address))

    async def _announce(self, crew: Crew, host: str, port: int, *, secured: bool) -> None:
        await crew.ready.wait()
        over = ", over TLS" if secured else ""
        _log.info("serving on %s:%d with %d worker(s)%s", host, port, crew.size, over)
        self.ready.set()


def _prepare(config: Config) -> TlsFiles | None:
    """What workers find in the state directory, and the files of the listener's TLS, loaded."""
    ensure_signing_key(config.signing_key_file, config.signing.algorithm, group_readable=config.secrets.group_readable)
    tls = listener_files(config)
    if tls is not None:
        tls.load()
    if config.listen.dpop is not None:
        ReplayTable.create(config.replay_file, capacity=config.listen.dpop.proofs, now=SystemClock().now())
    return tls


def _page_file(config: Config) -> Path:
    return config.state / "page"


async def _drain(crew: Crew, turnover: Turnover, data: socket.socket) -> None:
    data.close()  # with the workers' copies closed too, a new connection is refused instead of left waiting
    _log.info("draining")
    await crew.drain(patience=turnover.patience)


@contextlib.asynccontextmanager
async def _served(application: ASGIApp, address: TcpAddress | UnixAddress) -> AsyncIterator[None]:
    if isinstance(address, UnixAddress):
        listener = listen_unix(address.path)
    else:
        listener = bind(address.host, address.port)
        listen(listener)
        application = OwnHostOnly(application)
    server = Server(quiet(application))
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="admin")
    try:
        yield
    finally:
        server.stop()
        await serving
        if isinstance(address, UnixAddress):
            address.path.unlink(missing_ok=True)


def worker_settings(config: Config, *, workers: int, opa_address: OpaAddress, port: int) -> list[WorkerSettings]:
    """Those of so many workers."""
    cores = cores_of(workers, cores=deciding.cores(), pinned=config.pin_workers)
    return [
        WorkerSettings(
            name=f"w{number}",
            config=config,
            opa_address=opa_address,
            port=port,
            page=_page_file(config),
            core=core,
        )
        for number, core in enumerate(cores)
    ]


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
