"""One worker process: an event loop, the data listener, and the parts that `app.compose` puts behind it.

Started by the supervisor with the shared listening socket. It says `READY` once it accepts, drains on SIGTERM, and
ends by itself when the supervisor is gone, so that no worker serves without the OPA that decides for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final

import uvicorn
import uvloop

from ostiary import app
from ostiary.clock import SystemClock
from ostiary.config import Config
from ostiary.logs import configure_logging
from ostiary.opa.address import OpaAddress
from ostiary.server import refuse_unless_strict

READY: Final = "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker is told. `port` is the one that was really bound. Travels to the process by pickle."""

    name: str
    config: Config
    opa_address: OpaAddress
    port: int


def main(settings: WorkerSettings, listener: socket.socket, sender: Connection) -> None:
    """The entry point of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the supervisor decides for all
    configure_logging(level=settings.config.logging.level, form=settings.config.logging.format)
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, listener, sender))


async def _serve(settings: WorkerSettings, listener: socket.socket, sender: Connection) -> None:
    limits = settings.config.limits
    clock = SystemClock()
    policy = app.opa_policy(settings.config, settings.opa_address, clock=clock)
    composed = app.compose(settings.config, name=settings.name, port=settings.port, policy=policy, clock=clock)
    configuration = uvicorn.Config(
        composed.application,
        http=composed.protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(limits.drain_timeout)),
    )
    refuse_unless_strict(configuration)
    server = WorkerServer(configuration)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, server.stop)
    parent = multiprocessing.parent_process()
    if parent is not None:
        loop.add_reader(parent.sentinel, server.stop)
    announcing = asyncio.create_task(_announce(server, sender))
    try:
        await server.serve(sockets=[listener])
    finally:
        announcing.cancel()
        if parent is not None:
            loop.remove_reader(parent.sentinel)


async def _announce(server: WorkerServer, sender: Connection) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    # What start-up made lives as long as the worker does: it is not looked at again by the collector.
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError):  # the supervisor is gone, which its sentinel tells too
        sender.send(READY)


class WorkerServer(uvicorn.Server):
    """uvicorn's server, stopped by us instead of by the signal handlers it would install."""

    def stop(self) -> None:
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
