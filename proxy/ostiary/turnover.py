"""Other workers in the place of those that run: the same again, or with the configuration as it is now.

Neither costs a request. If anything is wrong with a configuration, the one that runs stays, and what was wrong is told.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ostiary.certificates import TlsFiles, listener_files
from ostiary.config import Config
from ostiary.crew import Crew
from ostiary.errors import ConfigurationError
from ostiary.logs import configure_logging
from ostiary.opa.background import Background
from ostiary.reloading import reread
from ostiary.telemetry.traces import demand_opentelemetry
from ostiary.worker_messages import WorkerSettings

_log = logging.getLogger("ostiary.supervisor")

_CLOSING: Final = 2.0
"""Seconds that a drained worker has, beside the audit's deadline, to close its parts."""


class Turnover(Background):
    """Open (`async with`) as long as the crew serves. `config` is what its workers have, `settings` makes theirs of a
    configuration, `changed` is told of one that they have now, and `tls` are the listener's files, loaded: each worker
    watches them by itself, and what is seen here is what they see. When `wanted` is set, `file` is read again.

    `mistakes` are those of the configuration that was read last, where it is not in use.
    """

    _name = "reload"

    def __init__(
        self,
        crew: Crew,
        config: Config,
        *,
        settings: Callable[[Config], Sequence[WorkerSettings]],
        changed: Callable[[Config], None],
        tls: TlsFiles | None,
        file: Path | None,
        wanted: asyncio.Event,
    ) -> None:
        self._crew = crew
        self._config = config
        self._settings = settings
        self._changed = changed
        self._file = file
        self._wanted = wanted
        self._rolling: asyncio.Task[None] | None = None
        self.tls = tls
        self.mistakes: tuple[str, ...] = ()

    @property
    def patience(self) -> float:
        """Seconds that a worker has to drain and to end."""
        return self._config.limits.drain_timeout + self._config.audit.deadline + _CLOSING

    def roll(self) -> None:
        """Replace the workers one after the other: with the same configuration, and the code that is there now."""
        if self._rolling is None or self._rolling.done():
            self._rolling = asyncio.create_task(self._crew.roll(patience=self.patience), name="roll")

    async def __aenter__(self) -> Self:
        if self.tls is not None:
            await self.tls.start()
        return await super().__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rolling is not None:
            self._rolling.cancel()
            await asyncio.gather(self._rolling, return_exceptions=True)
        await super().__aexit__(kind, error, trace)
        if self.tls is not None:
            await self.tls.close()

    async def _run(self) -> None:
        if self._file is None:
            return
        await self._crew.ready.wait()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await self._reload(self._file)

    async def _reload(self, file: Path) -> None:
        try:
            fresh = await asyncio.to_thread(reread, file, os.environ, running=self._config)
            await self._change(fresh)
        except ConfigurationError as error:
            self.mistakes = tuple(error.mistakes)
            for line in error.mistakes:
                _log.error("the configuration stays as it was: %s", line)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next one may be good
            self.mistakes = (f"unforeseen {type(error).__name__}",)
            _log.exception("the configuration stays as it was")
        else:
            self.mistakes = ()
            _log.info("the configuration was reloaded")

    async def _change(self, fresh: Config) -> None:
        """Workers with that configuration in the place of all of these. Raises `ConfigurationError`."""
        if fresh.telemetry.traces is not None:
            demand_opentelemetry()
        files = listener_files(fresh)
        if files is not None:
            files.load()
        failures = await self._crew.change(self._settings(fresh), patience=self.patience)
        if failures:
            raise ConfigurationError(failures)
        self._config = fresh
        self._changed(fresh)
        configure_logging(level=fresh.logging.level, form=fresh.logging.format)
        if self.tls is not None:
            await self.tls.close()
        self.tls = files
        if files is not None:
            await files.start()
