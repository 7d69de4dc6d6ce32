"""One worker process: an event loop, the data listener, and the parts that `app.compose` puts behind it.

Started by the supervisor with the shared listening socket. It says `READY` once it accepts, or `StartFailure` with the
reason why it never will, and gives a report when it is asked `HOW` it is and at its end; drains on SIGTERM; and ends by
itself when the supervisor is gone, so that no worker serves without the OPA that decides for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import multiprocessing
import os
import signal
import socket
import sys
from multiprocessing.connection import Connection
from typing import Final

import uvloop

from ostiary import app, deciding
from ostiary.clock import SystemClock
from ostiary.config import Config
from ostiary.errors import AccessError, ConfigurationError
from ostiary.listening import Server, allow_descriptors, quiet
from ostiary.logs import configure_logging
from ostiary.metering import WorkerReport
from ostiary.page import Page
from ostiary.server import refuse_unless_strict
from ostiary.worker_messages import LOOK, READY, StartFailure, WorkerSettings

_log = logging.getLogger("ostiary.worker")

_SPARE_DESCRIPTORS: Final = 128
"""What a worker has open besides connections: OPA, the audit, the issuers, the event loop."""

_COLLECT_AFTER: Final = 100_000
"""Objects beyond those that were freed, after which the collector looks at the young ones."""


def main(settings: WorkerSettings, listener: socket.socket, supervisor: Connection) -> None:
    """What the process does, from `worker_start` to its end. Exit status 1: it could not start, or did not end as it
    should."""
    configure_logging(level=settings.config.logging.level, form=settings.config.logging.format)
    if settings.core is not None:
        keep_to(settings.core)
    allow_descriptors(descriptors_needed(settings.config), by="limits.connections and limits.upstream_connections")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, listener, supervisor))
    except ConfigurationError as error:
        lines = error.mistakes
    except (AccessError, OSError) as error:  # the audit cannot be opened, for one
        lines = (str(error),)
    except Exception as error:  # noqa: BLE001 - whatever it is, the supervisor has to hear of it
        _log.exception("%s failed", settings.name)
        lines = (f"{type(error).__name__}: {error}",)
    else:
        return
    _tell(supervisor, StartFailure(lines=lines))
    sys.exit(1)


def _tell(supervisor: Connection, message: str | StartFailure | WorkerReport) -> None:
    with contextlib.suppress(OSError):  # it is gone, which its sentinel tells too
        supervisor.send(message)


async def _serve(settings: WorkerSettings, listener: socket.socket, supervisor: Connection) -> None:
    clock = SystemClock()
    page = Page.attach(settings.page)
    policy = deciding.opa_policy(
        settings.config,
        settings.opa_address,
        clock=clock,
        announcements=page,
        unknown=lambda: _tell(supervisor, LOOK),
    )
    composed = app.compose(settings.config, name=settings.name, port=settings.port, policy=policy, clock=clock)
    # The lifespan is entered below: uvicorn would turn what goes wrong in it into a line of its log.
    patience = max(1, math.ceil(settings.config.limits.drain_timeout))
    configuration = quiet(composed.application, http=composed.protocol, patience=patience)
    refuse_unless_strict(configuration)

    def started() -> None:
        settle_collector()
        _tell(supervisor, READY)

    def report() -> WorkerReport:
        return composed.report(len(server.server_state.connections))

    def asked() -> None:
        try:
            supervisor.recv()
        except (EOFError, OSError):  # it is gone
            loop.remove_reader(supervisor.fileno())
        else:
            _tell(supervisor, report())

    server = Server(configuration, started=started)
    loop = asyncio.get_running_loop()
    loop.add_reader(supervisor.fileno(), asked)
    loop.add_signal_handler(signal.SIGTERM, server.stop)
    parent = multiprocessing.parent_process()
    if parent is not None:
        loop.add_reader(parent.sentinel, _orphaned, loop, parent.sentinel, server)
    async with composed.lifespan():
        await server.serve(sockets=[listener])
    _tell(supervisor, report())  # what was counted since it was asked last


def descriptors_needed(config: Config) -> int:
    """What a worker has open when it has all the connections that its limits let it have."""
    limits = config.limits
    return limits.connections + len(config.services) * limits.upstream_connections + _SPARE_DESCRIPTORS


def keep_to(core: int) -> None:
    """Let this process, with the audit's thread, run on that core alone, where the operating system can do that.

    Two threads that take turns with one interpreter lock do so for less on one core: without this, each of two workers
    on two cores spends 10 % more CPU on a request.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    try:
        os.sched_setaffinity(0, {core})
    except OSError as error:  # taken away meanwhile
        _log.warning("core %d cannot be had: %s", core, error.strerror)


def settle_collector() -> None:
    """Let the cyclic collector run rarely: a request leaves no cycles, and what start-up made lives as long as we do.

    Measured by `make bench` in pairs: 4 to 5 % of the throughput at 32 connections, against the default thresholds.
    What start-up made is not looked through before: of 124,000 objects 1,700 are garbage, which frees no page, and
    finding them takes as long as a tenth of the start.
    """
    gc.freeze()
    gc.enable()
    gc.set_threshold(_COLLECT_AFTER, 20, 50)


def _orphaned(loop: asyncio.AbstractEventLoop, sentinel: int, server: Server) -> None:
    loop.remove_reader(sentinel)  # it stays readable
    _log.error("the supervisor is gone: draining")
    server.stop()
