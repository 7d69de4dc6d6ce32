"""The workers: as many processes as there should be, each started again when it dies.

A worker tells over a pipe that it accepts, or why it cannot start, and how it is when it is asked. One that never came
up is a mistake to show, and ends the crew; one that dies later is started again, with back-off when it dies young.

In a rolling restart each worker is replaced in turn, and drains only once its successor accepts: all of them listen on
one socket, so at every instant somebody takes what waits there. With other settings all successors are started before
any worker drains, so that one which does not come up leaves everything as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import multiprocessing
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Final

from ostiary import worker
from ostiary.errors import ConfigurationError
from ostiary.metering import WorkerReport
from ostiary.telemetry import Counted

_log = logging.getLogger("ostiary.supervisor")

_STABLE: Final = 10.0
"""Seconds a worker must have lived for its end not to count as dying young."""
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 30.0
_START_TIMEOUT: Final = 60.0
"""Seconds for a worker to come up. One that takes longer hangs."""


@dataclass(slots=True, eq=False)
class _Worker:
    """One process, from its start to its end. `failure` is what it said of why it could not start. `answer` is what it
    will say of its health, where it was asked; None if it ends before.

    `successor` takes its place, or tries to: None comes of it if it could not.
    """

    name: str
    process: BaseProcess
    pipe: Connection
    started: float = field(default_factory=time.monotonic)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    failure: tuple[str, ...] = ()
    answer: asyncio.Future[WorkerReport | None] | None = None
    exit_code: int | None = None
    successor: asyncio.Task[_Worker | None] | None = None

    @property
    def serves(self) -> bool:
        return self.ready.is_set() and not self.ended.is_set()

    @property
    def lived(self) -> float:
        return time.monotonic() - self.started


class Crew:
    """Keeps one worker for each of `settings` on the listening socket `data`. `look` is called when one of them wants
    OPA's bundle looked at.

    `ready` is set once all of them accepted, `serving_for` so many seconds ago. `counted` is called with what a worker
    has counted, whenever it tells. `deaths` are the workers that ended unasked.
    """

    def __init__(
        self,
        settings: Sequence[worker.WorkerSettings],
        *,
        data: socket.socket,
        look: Callable[[], None] = lambda: None,
        counted: Callable[[Counted], None] = lambda _: None,
    ) -> None:
        self._settings = {one.name: one for one in settings}
        self._look = look
        self._data = data
        self._counted = counted
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[str, _Worker] = {}
        self._all: set[_Worker] = set()  # those that were replaced and have not ended among them
        self._changing = asyncio.Lock()
        self.ready = asyncio.Event()
        self._ready_since = math.inf
        self.deaths = 0

    @property
    def size(self) -> int:
        return len(self._settings)

    @property
    def serving_for(self) -> float:
        return max(time.monotonic() - self._ready_since, 0.0)

    async def reports(self, *, patience: float) -> tuple[WorkerReport, ...]:
        """What those that accept say of themselves, by name, but for those that have not within `patience` seconds."""
        asked = [self._ask(one) for one in self._workers.values() if one.serves]
        if asked:
            await asyncio.wait(asked, timeout=patience)
        told = [found for answer in asked if answer.done() and (found := answer.result()) is not None]
        return tuple(sorted(told, key=lambda one: one.health.worker))

    def _ask(self, one: _Worker) -> asyncio.Future[WorkerReport | None]:
        """One question at a time to each: what nobody reads can never fill a pipe."""
        if one.answer is None:
            one.answer = asyncio.get_running_loop().create_future()
            with contextlib.suppress(OSError):  # it has ended, which its sentinel tells too
                one.pipe.send(worker.HOW)
        return one.answer

    async def serve(self) -> None:
        """Keep the workers until cancelled. Raises `ConfigurationError` when one cannot be started at all."""
        # The tracker is a process of its own. Started here, it leaves the signal mask alone when workers are started.
        resource_tracker.ensure_running()
        tasks = [asyncio.create_task(self._keep(name), name=f"keep-{name}") for name in self._settings]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def drain(self, *, patience: float) -> None:
        """End every worker: SIGTERM, and after `patience` seconds SIGKILL. Returns when all are gone."""
        for one in self._all:
            one.process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._all_ended()
        if self._all:
            late = ", ".join(sorted(one.name for one in self._all))
            _log.error("%s did not drain within %g s: killed", late, patience)
        self.kill()
        await self._all_ended()

    def kill(self) -> None:
        """End every worker at once."""
        for one in self._all:
            one.process.kill()

    async def roll(self, *, patience: float) -> None:
        """Replace the workers one after the other, each drained once another in its place accepts.

        One that has not ended `patience` seconds after it was asked to is killed. If a replacement does not come up,
        the one in its place stays, and those after it do too. Called again meanwhile, this does nothing.
        """
        if self._changing.locked() or not self.ready.is_set():
            _log.warning("the workers are being started: they are not restarted now")
            return
        async with self._changing:
            _log.info("restarting %d worker(s), one after the other", self.size)
            for settings in self._settings.values():
                if not await self._replace(settings, patience=patience):
                    return
            _log.info("all workers were restarted")

    async def change(self, settings: Sequence[worker.WorkerSettings], *, patience: float) -> tuple[str, ...]:
        """Replace all workers by others with these settings, for the same places, or none of them: why, then.

        Those that were replaced have ended when this returns, killed `patience` seconds after they were asked to.
        """
        async with self._changing:
            pairs: list[tuple[_Worker, _Worker]] = []
            for one in settings:
                before = await self._serving(one.name)
                said: list[str] = []
                successor = await self._successor(before, one, said)
                if successor is None:
                    await self._take_back(pairs, patience=patience)
                    return tuple(said)
                pairs.append((before, successor))
            self._settings = {one.name: one for one in settings}
            await asyncio.gather(*(self._end(before, patience=patience) for before, _ in pairs))
            return ()

    async def _serving(self, place: str) -> _Worker:
        """The worker of a place; one that died is started again, which is waited for."""
        while not self._workers[place].serves:  # noqa: ASYNC110 - which of them it will be is not known
            await asyncio.sleep(_FIRST_PAUSE)
        return self._workers[place]

    async def _take_back(self, pairs: Sequence[tuple[_Worker, _Worker]], *, patience: float) -> None:
        """End the successors; those whose places they were to take keep them."""
        for before, successor in pairs:
            if not before.ended.is_set():
                before.successor = None
                self._workers[_place(before.name)] = before
            await self._end(successor, patience=patience)

    async def _replace(self, settings: worker.WorkerSettings, *, patience: float) -> bool:
        before = self._workers[settings.name]
        if before.ended.is_set():
            return True  # it is being started anew anyway
        said: list[str] = []
        if await self._successor(before, settings, said) is None:
            for line in said:
                _log.error("%s", line)
            _log.error("%s goes on as it is, and the workers after it do too", settings.name)
            return False
        await self._end(before, patience=patience)
        return True

    async def _end(self, one: _Worker, *, patience: float) -> None:
        """Let it drain, and kill it after `patience` seconds."""
        if not one.ended.is_set():
            one.process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await one.ended.wait()
        if not one.ended.is_set():
            _log.error("%s did not drain within %g s: killed", one.name, patience)
            one.process.kill()

    async def _successor(self, before: _Worker, settings: worker.WorkerSettings, said: list[str]) -> _Worker | None:
        """A worker that accepts, in the place of `before`; None if none can be had, and `said` then has why."""
        fresh = replace(settings, name=_beside(before.name, settings.name))
        before.successor = asyncio.create_task(
            self._succeed(settings.name, fresh, said), name=f"succeed-{settings.name}"
        )
        found = await before.successor
        if found is None:
            before.successor = None
        return found

    async def _succeed(self, place: str, settings: worker.WorkerSettings, said: list[str]) -> _Worker | None:
        try:
            one = self._start(settings)
        except OSError as error:
            said.append(f"{settings.name} cannot be started: {error}")
            return None
        await self._come_up(one)
        if one.ended.is_set() or not one.ready.is_set():
            await one.ended.wait()
            said += _why(one)
            return None
        self._workers[place] = one
        return one

    async def _all_ended(self) -> None:
        for one in tuple(self._all):
            await one.ended.wait()

    async def _keep(self, place: str) -> None:
        """Run one worker, again and again."""
        pause = _FIRST_PAUSE
        while True:
            try:
                one = await self._run(self._settings[place])
            except OSError as error:  # no process or no descriptor to be had
                if not self.ready.is_set():
                    raise
                pause = min(pause * 2, _LONGEST_PAUSE)
                _log.error("%s cannot be started, tried again in %.1f s: %s", place, pause, error)
                await asyncio.sleep(pause)
                continue
            if not one.ready.is_set() and not self.ready.is_set():
                raise ConfigurationError(_why(one))
            self.deaths += 1
            pause = _FIRST_PAUSE if one.lived > _STABLE else min(pause * 2, _LONGEST_PAUSE)
            for line in _why(one):
                _log.error("%s; started again in %.1f s", line, pause)
            await asyncio.sleep(pause)

    async def _run(self, settings: worker.WorkerSettings) -> _Worker:
        """Start a worker and wait for its end, or for that of the last of its successors."""
        one = self._workers[settings.name] = self._start(settings)
        await self._come_up(one)
        if one.ready.is_set() and not self.ready.is_set() and self._all_serve:
            self._ready_since = time.monotonic()
            self.ready.set()
        while True:
            await one.ended.wait()
            if one.successor is None or (successor := await one.successor) is None:
                return one
            one = successor

    async def _come_up(self, one: _Worker) -> None:
        """Wait until it is ready or has ended. One that takes too long is killed."""
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                await _first_of(one.ready, one.ended)
        except TimeoutError:
            one.failure = (f"it was not ready within {_START_TIMEOUT:g} s",)
            one.process.kill()

    def _start(self, settings: worker.WorkerSettings) -> _Worker:
        ours, theirs = self._context.Pipe()
        # A daemon: should this process end by an error, the workers are not waited for but ended.
        process = self._context.Process(
            target=worker.main, args=(settings, self._data, theirs), name=settings.name, daemon=True
        )
        try:
            with theirs, _no_interrupt():
                process.start()
        except BaseException:
            ours.close()
            raise
        one = _Worker(name=settings.name, process=process, pipe=ours)
        self._all.add(one)
        loop = asyncio.get_running_loop()
        loop.add_reader(ours.fileno(), self._heard, one)
        loop.add_reader(process.sentinel, self._died, one)
        return one

    def _heard(self, one: _Worker) -> None:
        try:
            message = one.pipe.recv()
        except (EOFError, OSError):
            self._hang_up(one)
            return
        if message == worker.READY:
            one.ready.set()
        elif message == worker.LOOK:
            self._look()
        elif isinstance(message, worker.StartFailure):
            one.failure = message.lines
        elif isinstance(message, WorkerReport):
            self._counted(message.counted)
            self._answered(one, message)

    @property
    def _all_serve(self) -> bool:
        return sum(one.serves for one in self._workers.values()) == self.size

    def _died(self, one: _Worker) -> None:
        asyncio.get_running_loop().remove_reader(one.process.sentinel)
        one.process.join()
        while not one.pipe.closed and one.pipe.poll():
            self._heard(one)  # its last words
        self._hang_up(one)
        one.exit_code = one.process.exitcode
        one.process.close()  # its pipes, now rather than when it is collected
        self._all.discard(one)
        self._answered(one, None)
        one.ended.set()

    def _answered(self, one: _Worker, report: WorkerReport | None) -> None:
        answer, one.answer = one.answer, None
        if answer is not None:
            answer.set_result(report)

    def _hang_up(self, one: _Worker) -> None:
        if not one.pipe.closed:
            asyncio.get_running_loop().remove_reader(one.pipe.fileno())
            one.pipe.close()


_BESIDE: Final = "_b"


def _place(name: str) -> str:
    """The place of the worker that is called so."""
    return name.removesuffix(_BESIDE)


def _beside(name: str, place: str) -> str:
    """What a worker is called that comes while the one of that name is still there: each writes an audit of its own."""
    return place if name != place else f"{place}{_BESIDE}"


def _why(one: _Worker) -> list[str]:
    if one.failure:
        return [f"{one.name} {'failed' if one.ready.is_set() else 'did not start'}: {line}" for line in one.failure]
    code = one.exit_code
    how = f"was ended by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with status {code}"
    return [f"{one.name} {how}"]


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
    before = signal.pthread_sigmask(signal.SIG_BLOCK, worker.NOT_FOR_WORKERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
