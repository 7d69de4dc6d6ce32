"""A worker as its supervisor has it: a process, and a pipe on which it is asked and tells.

It tells that it accepts, or why it cannot start, and how it is when it is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import pickle
import signal
import socket
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Final, Self

from ostiary import worker_start
from ostiary.metering import WorkerReport
from ostiary.telemetry import Counted
from ostiary.worker_messages import HOW, LOOK, READY, StartFailure, WorkerSettings

_log = logging.getLogger("ostiary.supervisor")

_START_TIMEOUT: Final = 60.0
"""Seconds for a worker to come up. One that takes longer hangs."""


class WorkerProcess:
    """One process, from its start to its end. Made by `start`.

    `ready` is set once it accepts, `ended` once it is gone. `look` is called when it wants OPA's bundle looked at,
    `counted` with what it has counted, whenever it tells.
    """

    def __init__(
        self,
        name: str,
        *,
        process: BaseProcess,
        pipe: Connection,
        look: Callable[[], None],
        counted: Callable[[Counted], None],
    ) -> None:
        self.name = name
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self._process = process
        self._pipe = pipe
        self._look = look
        self._counted = counted
        self._started = time.monotonic()
        self._failure: tuple[str, ...] = ()
        self._answer: asyncio.Future[WorkerReport | None] | None = None
        self._exit_code: int | None = None
        loop = asyncio.get_running_loop()
        loop.add_reader(pipe.fileno(), self._heard)
        loop.add_reader(process.sentinel, self._died)

    @classmethod
    def start(
        cls,
        settings: WorkerSettings,
        *,
        data: socket.socket,
        look: Callable[[], None],
        counted: Callable[[Counted], None],
    ) -> Self:
        """A worker that accepts on `data`, soon. Raises `OSError` where there is no process or descriptor to be had."""
        told = pickle.dumps(settings)
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        # A daemon: should this process end by an error, the workers are not waited for but ended.
        process = context.Process(target=worker_start.main, args=(told, data, theirs), name=settings.name, daemon=True)
        try:
            with theirs, _no_interrupt():
                process.start()
        except BaseException:
            ours.close()
            raise
        return cls(settings.name, process=process, pipe=ours, look=look, counted=counted)

    @property
    def serves(self) -> bool:
        return self.ready.is_set() and not self.ended.is_set()

    @property
    def lived(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started

    @property
    def why(self) -> list[str]:
        """How it ended, and why if it said so, in lines."""
        if self._failure:
            what = "failed" if self.ready.is_set() else "did not start"
            return [f"{self.name} {what}: {line}" for line in self._failure]
        code = self._exit_code
        if code is not None and code < 0:
            return [f"{self.name} was ended by {signal.Signals(-code).name}"]
        return [f"{self.name} ended with status {code}"]

    def ask(self) -> asyncio.Future[WorkerReport | None]:
        """How it is; None if it ends before. One question at a time: what nobody reads can never fill a pipe."""
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
            with contextlib.suppress(OSError):  # it has ended, which its sentinel tells too
                self._pipe.send(HOW)
        return self._answer

    async def come_up(self) -> bool:
        """Wait until it accepts, or has ended. One that takes too long is killed."""
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                await _first_of(self.ready, self.ended)
        except TimeoutError:
            self._failure = (f"it was not ready within {_START_TIMEOUT:g} s",)
            self.kill()
        return self.serves

    def terminate(self) -> None:
        """Let it drain."""
        if not self.ended.is_set():
            self._process.terminate()

    def kill(self) -> None:
        if not self.ended.is_set():
            self._process.kill()

    async def end(self, *, patience: float) -> None:
        """Let it drain, and kill it after `patience` seconds."""
        self.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self.ended.wait()
        if not self.ended.is_set():
            _log.error("%s did not drain within %g s: killed", self.name, patience)
            self.kill()

    def _heard(self) -> None:
        try:
            message = self._pipe.recv()
        except (EOFError, OSError):
            self._hang_up()
            return
        if message == READY:
            self.ready.set()
        elif message == LOOK:
            self._look()
        elif isinstance(message, StartFailure):
            self._failure = message.lines
        elif isinstance(message, WorkerReport):
            self._counted(message.counted)
            self._answered(message)

    def _died(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        self._process.join()
        while not self._pipe.closed and self._pipe.poll():
            self._heard()  # its last words
        self._hang_up()
        self._exit_code = self._process.exitcode
        self._process.close()  # its pipes, now rather than when it is collected
        self._answered(None)
        self.ended.set()

    def _answered(self, report: WorkerReport | None) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.set_result(report)

    def _hang_up(self) -> None:
        if not self._pipe.closed:
            asyncio.get_running_loop().remove_reader(self._pipe.fileno())
            self._pipe.close()


async def _first_of(*events: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """What is started in this context begins with the signals blocked that are the supervisor's: a terminal sends them
    to all, or somebody to the whole group. The worker ignores them as soon as it can."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, worker_start.NOT_FOR_WORKERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
