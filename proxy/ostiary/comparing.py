"""The candidate beside the policy: the OPA that serves it, for the supervisor, and who asks it, for a worker."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from ostiary.clock import Clock
from ostiary.config import Config
from ostiary.config.candidate import Candidate
from ostiary.decision.comparison import Comparison
from ostiary.opa.address import OpaAddress
from ostiary.opa.background import Background
from ostiary.opa.client import OpaClient
from ostiary.opa.probe import OpaNotReady
from ostiary.opa.sidecar import SOCKET, ManagedOpa
from ostiary.stage_settings import bundle_verification

_log = logging.getLogger("ostiary.candidate")

_NICENESS: Final = 10
"""How far the candidate's OPA stands back behind everything else on the machine (nice(1))."""
_DEADLINE: Final = 5.0
"""Seconds for a batch: nobody waits for it."""
_PAUSE: Final = 5.0
"""Seconds before a candidate that could not be served is tried again."""


class CandidateOpa(Background):
    """Keeps an OPA with the candidate as long as it is open, and tries again where it cannot: the proxy never waits for
    it, and does not fail with it."""

    _name = "candidate"

    def __init__(self, config: Config, settings: Candidate, *, binary: Path) -> None:
        self._config = config
        self._settings = settings
        self._binary = binary
        self._opa: ManagedOpa | None = None
        self._said = ""

    @property
    def state(self) -> str:
        """`serving`, `starting` or `down`."""
        if self._opa is not None:
            return self._opa.state
        return "down" if self._said else "starting"

    @property
    def revision(self) -> str | None:
        """The candidate that is served, if one is."""
        return None if self._opa is None else self._opa.revision

    async def _run(self) -> None:
        while True:
            try:
                async with self._managed() as opa:
                    self._opa, self._said = opa, ""
                    await asyncio.Event().wait()
            except (OpaNotReady, OSError) as error:
                if str(error) != self._said:
                    self._said = str(error)
                    _log.error("the candidate %s is not served: %s", self._settings.bundle, error)
            except Exception:  # noqa: BLE001 - whatever it is, the proxy goes on without
                self._said = "it failed"
                _log.exception("the candidate %s is not served", self._settings.bundle)
            finally:
                self._opa = None
            await asyncio.sleep(_PAUSE)

    def _managed(self) -> ManagedOpa:
        managed = self._config.opa.managed
        return ManagedOpa(
            binary=self._binary,
            bundle=self._settings.bundle,
            verification=None if managed is None else bundle_verification(managed),
            directory=_directory(self._config),
            niceness=_NICENESS,
        )


class CandidatePart:
    """A worker's comparison with its client: opened and closed with the worker."""

    def __init__(self, config: Config, settings: Candidate, *, clock: Clock) -> None:
        self._client = OpaClient(address=OpaAddress(socket=_directory(config) / SOCKET), deadline=_DEADLINE)
        self.comparison = Comparison(policy=self._client, sample=settings.sample, clock=clock)

    async def start(self) -> None:
        await self._client.__aenter__()
        await self.comparison.start()

    async def close(self) -> None:
        await self.comparison.close()
        await self._client.__aexit__(None, None, None)


def _directory(config: Config) -> Path:
    return config.state / "opa-candidate"
