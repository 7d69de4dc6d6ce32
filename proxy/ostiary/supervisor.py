"""The owner of everything that a machine has once: OPA, the signing key, the listening sockets, and the workers.

There is a supervisor even when there is one worker. Workers are processes that share the listening socket and the
OPA; one that dies is started again, with back-off when it dies young. SIGTERM and SIGINT drain: workers stop accepting,
finish what they have within `limits.drain_timeout`, and OPA ends last. A worker whose supervisor is gone ends by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import stat
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final, Protocol

import uvicorn

from ostiary import worker
from ostiary.admin.app import Health, admin_application
from ostiary.config import Config
from ostiary.config.fields import UnixAddress
from ostiary.credential.keys import ensure_signing_key
from ostiary.errors import ConfigurationError
from ostiary.opa.address import OpaAddress
from ostiary.opa.external import ExternalOpa
from ostiary.opa.install import ensure_opa
from ostiary.opa.sidecar import ManagedOpa

_log = logging.getLogger("ostiary.supervisor")

_STABLE: Final = 10.0
"""Seconds a worker must have lived for its end not to count as dying young."""

_BACKOFF_LIMIT: Final = 30.0
_BACKLOG: Final = 2048


class PolicyService(Protocol):
    """OPA as the supervisor sees it, managed or external."""

    @property
    def address(self) -> OpaAddress: ...
    @property
    def state(self) -> str: ...
    @property
    def revision(self) -> str | None: ...


@dataclass(slots=True)
class _Worker:
    name: str
    process: BaseProcess
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    started: float = field(default_factory=time.monotonic)


class Supervisor:
    """Runs a proxy until `stop()`.

    `ready` is set once every worker accepts. `data_address` is the address that was bound (port 0 is legal), known
    after `ready`.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[str, _Worker] = {}
        self._stopping = asyncio.Event()
        self._failures: list[BaseException] = []
        self.ready = asyncio.Event()
        self.data_address: tuple[str, int] = ("", 0)
        self.opa: PolicyService | None = None

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """Start every part in order, serve until stopped, end every part in the opposite order.

        Raises `ConfigurationError` when something that people wrote stops it, and `OSError` when an address is taken.
        """
        config = self._config
        async with AsyncExitStack() as stack:
            private_directory(config.state)
            ensure_signing_key(config.signing_key_file, config.signing.algorithm)
            data = stack.enter_context(contextlib.closing(bind(config.listen.data.host, config.listen.data.port)))
            self.data_address = data.getsockname()[:2]
            self.opa = await stack.enter_async_context(self._opa())
            await stack.enter_async_context(self._admin())
            tasks = [
                asyncio.create_task(self._keep(f"w{number}", data), name=f"worker-{number}")
                for number in range(worker_count(config))
            ]
            stack.push_async_callback(self._drain, tasks, data)
            await self._until_stopped(tasks)
        if self._failures:
            raise self._failures[0]

    async def _until_stopped(self, tasks: list[asyncio.Task[None]]) -> None:
        stopping = asyncio.create_task(self._stopping.wait())
        ready = asyncio.create_task(self._announce())
        try:
            await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            ready.cancel()

    async def _announce(self) -> None:
        while len(self._workers) < worker_count(self._config):
            await asyncio.sleep(0.01)
        for one in list(self._workers.values()):
            await one.ready.wait()
        _log.info("serving on %s:%d with %d worker(s)", *self.data_address, len(self._workers))
        self.ready.set()

    # OPA

    def _opa(self) -> contextlib.AbstractAsyncContextManager[PolicyService]:
        opa = self._config.opa
        if opa.managed is not None:
            binary = opa.managed.binary or ensure_opa()
            return ManagedOpa(binary=binary, bundle=opa.managed.bundle, directory=self._config.state / "opa")
        return ExternalOpa(address=OpaAddress.parse(str(opa.url)), token=None if opa.token is None else opa.token.get_secret_value())

    # workers

    async def _keep(self, name: str, data: socket.socket) -> None:
        """Run one worker, again and again, until the supervisor stops."""
        delay = 0.1
        while not self._stopping.is_set():
            one = self._spawn(name, data)
            self._workers[name] = one
            await one.ended.wait()
            if self._stopping.is_set():
                return
            if not one.ready.is_set() and not self.ready.is_set():
                # It never served at all: that is a mistake to show, not a crash to repeat.
                self._failures.append(ConfigurationError([f"{name} did not start (exit code {one.process.exitcode})"]))
                return
            lived = time.monotonic() - one.started
            delay = 0.1 if lived > _STABLE else min(delay * 2, _BACKOFF_LIMIT)
            _log.error("%s died (exit code %s) and is started again in %.1f s", name, one.process.exitcode, delay)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    def _spawn(self, name: str, data: socket.socket) -> _Worker:
        if self.opa is None:
            raise RuntimeError("workers are started after OPA")
        loop = asyncio.get_running_loop()
        receiver, sender = self._context.Pipe(duplex=False)
        settings = worker.WorkerSettings(
            name=name, config=self._config, opa_address=self.opa.address, port=self.data_address[1]
        )
        process = self._context.Process(target=worker.main, args=(settings, data, sender), name=name)
        process.start()
        sender.close()
        one = _Worker(name=name, process=process)
        loop.add_reader(receiver.fileno(), self._heard, receiver, one)
        loop.add_reader(process.sentinel, self._died, one)
        return one

    def _heard(self, receiver: Connection, one: _Worker) -> None:
        with contextlib.suppress(EOFError, OSError):
            if receiver.recv() == worker.READY:
                one.ready.set()
                return
        asyncio.get_running_loop().remove_reader(receiver.fileno())
        receiver.close()

    def _died(self, one: _Worker) -> None:
        asyncio.get_running_loop().remove_reader(one.process.sentinel)
        one.process.join()
        one.ended.set()

    async def _drain(self, tasks: list[asyncio.Task[None]], data: socket.socket) -> None:
        self._stopping.set()
        data.close()  # with the workers' copies closed too, a new connection is refused instead of left waiting
        _log.info("draining")
        for one in self._workers.values():
            if one.process.is_alive():
                one.process.terminate()
        waiting = [asyncio.create_task(one.ended.wait()) for one in self._workers.values()]
        _, late = await asyncio.wait(waiting, timeout=self._config.limits.drain_timeout + 2) if waiting else (None, set())
        for one in self._workers.values():
            if not one.ended.is_set():
                _log.error("%s did not drain in time and is killed", one.name)
                one.process.kill()
        for task in late:
            await task
        await asyncio.gather(*tasks, return_exceptions=True)

    # administration

    def health(self) -> Health:
        policy = self.opa
        return Health(
            policy="starting" if policy is None else policy.state,
            revision=None if policy is None else policy.revision,
            workers=worker_count(self._config),
            workers_ready=sum(one.ready.is_set() and not one.ended.is_set() for one in self._workers.values()),
        )

    @contextlib.asynccontextmanager
    async def _admin(self) -> AsyncIterator[None]:
        address = self._config.admin_address
        listener = bind_unix(address.path) if isinstance(address, UnixAddress) else bind(address.host, address.port)
        server = worker.WorkerServer(
            uvicorn.Config(
                admin_application(self.health),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
            )
        )
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
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def private_directory(path: Path) -> Path:
    """The directory, made 0700 if it is not there. Raises `ConfigurationError` if others can get into it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigurationError([f"{path}: holds keys and sockets, and has to be this user's alone (mode 0700)"])
    return path


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Port 0 is any free one. Raises `OSError` with the address in it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


def bind_unix(path: Path) -> socket.socket:
    """A listening unix socket (0600) in a private directory; one that was left behind is replaced."""
    private_directory(path.parent)
    if path.is_socket():
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {path}: {error.strerror}") from error
    return listener


async def run_until_signalled(supervisor: Supervisor) -> None:
    """Run until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    await supervisor.run()
