"""The workers: as many processes as there should be, each started again when it dies.

One that never came up is a mistake to show, and ends the crew; one that dies later is started again, with back-off when
it dies young.

In a rolling restart each worker is replaced in turn, and drains only once its successor accepts: all of them listen on
one socket, so at every instant somebody takes what waits there. With other settings all successors are started before
any worker drains, so that one which does not come up leaves everything as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import resource_tracker
from typing import Final

from ostiary.errors import ConfigurationError
from ostiary.metering import WorkerReport
from ostiary.telemetry import Counted
from ostiary.worker_messages import WorkerSettings
from ostiary.worker_process import WorkerProcess

_log = logging.getLogger("ostiary.supervisor")

_STABLE: Final = 10.0
"""Seconds a worker must have lived for its end not to count as dying young."""
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 30.0


class Crew:
    """Keeps one worker for each of `settings` on the listening socket `data`. `look` is called when one of them wants
    OPA's bundle looked at.

    `ready` is set once all of them accepted, `serving_for` so many seconds ago. `counted` is called with what a worker
    has counted, whenever it tells. `deaths` are the workers that ended unasked.
    """

    def __init__(
        self,
        settings: Sequence[WorkerSettings],
        *,
        data: socket.socket,
        look: Callable[[], None] = lambda: None,
        counted: Callable[[Counted], None] = lambda _: None,
    ) -> None:
        self._settings = {one.name: one for one in settings}
        self._look = look
        self._data = data
        self._counted = counted
        self._workers: dict[str, WorkerProcess] = {}
        self._started: list[WorkerProcess] = []  # those that were replaced and have not ended among them
        self._successors: dict[WorkerProcess, asyncio.Task[WorkerProcess | None]] = {}
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
        asked = [one.ask() for one in self._workers.values() if one.serves]
        if asked:
            await asyncio.wait(asked, timeout=patience)
        told = [found for answer in asked if answer.done() and (found := answer.result()) is not None]
        return tuple(sorted(told, key=lambda one: one.health.worker))

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
        for one in self._living():
            one.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._all_ended()
        if late := self._living():
            _log.error("%s did not drain within %g s: killed", ", ".join(sorted(one.name for one in late)), patience)
        self.kill()
        await self._all_ended()

    def kill(self) -> None:
        """End every worker at once."""
        for one in self._living():
            one.kill()

    def _living(self) -> list[WorkerProcess]:
        self._started = [one for one in self._started if not one.ended.is_set()]
        return self._started

    async def _all_ended(self) -> None:
        for one in self._living():
            await one.ended.wait()

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

    async def change(self, settings: Sequence[WorkerSettings], *, patience: float) -> tuple[str, ...]:
        """Replace all workers by others with these settings, for the same places, or none of them: why, then.

        Those that were replaced have ended when this returns, killed `patience` seconds after they were asked to.
        """
        async with self._changing:
            pairs: list[tuple[WorkerProcess, WorkerProcess]] = []
            for one in settings:
                before = await self._serving(one.name)
                said: list[str] = []
                successor = await self._successor(before, one, said)
                if successor is None:
                    await self._take_back(pairs, patience=patience)
                    return tuple(said)
                pairs.append((before, successor))
            self._settings = {one.name: one for one in settings}
            await asyncio.gather(*(before.end(patience=patience) for before, _ in pairs))
            return ()

    async def _serving(self, place: str) -> WorkerProcess:
        """The worker of a place; one that died is started again, which is waited for."""
        while not self._workers[place].serves:  # noqa: ASYNC110 - which of them it will be is not known
            await asyncio.sleep(_FIRST_PAUSE)
        return self._workers[place]

    async def _take_back(self, pairs: Sequence[tuple[WorkerProcess, WorkerProcess]], *, patience: float) -> None:
        """End the successors; those whose places they were to take keep them."""
        for before, successor in pairs:
            if not before.ended.is_set():
                self._successors.pop(before, None)
                self._workers[_place(before.name)] = before
            await successor.end(patience=patience)

    async def _replace(self, settings: WorkerSettings, *, patience: float) -> bool:
        before = self._workers[settings.name]
        if before.ended.is_set():
            return True  # it is being started anew anyway
        said: list[str] = []
        if await self._successor(before, settings, said) is None:
            for line in said:
                _log.error("%s", line)
            _log.error("%s goes on as it is, and the workers after it do too", settings.name)
            return False
        await before.end(patience=patience)
        return True

    async def _successor(
        self, before: WorkerProcess, settings: WorkerSettings, said: list[str]
    ) -> WorkerProcess | None:
        """A worker that accepts, in the place of `before`; None if none can be had, and `said` then has why."""
        fresh = replace(settings, name=_beside(before.name, settings.name))
        succeeding = asyncio.create_task(self._succeed(settings.name, fresh, said), name=f"succeed-{settings.name}")
        self._successors[before] = succeeding
        found = await succeeding
        if found is None:
            self._successors.pop(before, None)
        return found

    async def _succeed(self, place: str, settings: WorkerSettings, said: list[str]) -> WorkerProcess | None:
        try:
            one = self._start(settings)
        except OSError as error:
            said.append(f"{settings.name} cannot be started: {error}")
            return None
        if not await one.come_up():
            await one.ended.wait()
            said += one.why
            return None
        self._workers[place] = one
        return one

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
                raise ConfigurationError(one.why)
            self.deaths += 1
            pause = _FIRST_PAUSE if one.lived > _STABLE else min(pause * 2, _LONGEST_PAUSE)
            for line in one.why:
                _log.error("%s; started again in %.1f s", line, pause)
            await asyncio.sleep(pause)

    async def _run(self, settings: WorkerSettings) -> WorkerProcess:
        """Start a worker and wait for its end, or for that of the last of its successors."""
        one = self._workers[settings.name] = self._start(settings)
        if await one.come_up() and not self.ready.is_set() and self._all_serve:
            self._ready_since = time.monotonic()
            self.ready.set()
        while True:
            await one.ended.wait()
            succeeding = self._successors.pop(one, None)
            if succeeding is None or (successor := await succeeding) is None:
                return one
            one = successor

    def _start(self, settings: WorkerSettings) -> WorkerProcess:
        one = WorkerProcess.start(settings, data=self._data, look=self._look, counted=self._counted)
        self._started = [*self._living(), one]
        return one

    @property
    def _all_serve(self) -> bool:
        return sum(one.serves for one in self._workers.values()) == self.size


_BESIDE: Final = "_b"


def _place(name: str) -> str:
    """The place of the worker that is called so."""
    return name.removesuffix(_BESIDE)


def _beside(name: str, place: str) -> str:
    """What a worker is called that comes while the one of that name is still there: each writes an audit of its own."""
    return place if name != place else f"{place}{_BESIDE}"
