"""An OPA that somebody else runs: waited for, never started or ended."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from ostiary.opa.address import OpaAddress
from ostiary.opa.client import OpaClient
from ostiary.opa.probe import wait_until_ready
from ostiary.opa.vetting import Vetting


class ExternalOpa:
    """The counterpart of `ManagedOpa` for an address. Opening (`async with`) returns with OPA serving a bundle that
    may be used: it may have come with an older one, and get another.

    `start_timeout` is in seconds. `token` and `ca_file` are as in `OpaClient`.
    """

    def __init__(
        self,
        *,
        address: OpaAddress,
        token: str | None = None,
        ca_file: Path | None = None,
        vetting: Vetting | None = None,
        start_timeout: float = 30.0,
    ) -> None:
        self.address = address
        self._token = token
        self._ca_file = ca_file
        self._vetting = vetting or Vetting()
        self._start_timeout = start_timeout
        self.revision: str | None = None

    async def __aenter__(self) -> Self:
        """Raises `OpaNotReady` with the reason if OPA is not ready in time."""
        async with OpaClient(
            address=self.address, token=self._token, ca_file=self._ca_file, deadline=self._start_timeout
        ) as client:
            revision = await wait_until_ready(
                client, accept=self._vetting.admit, patience=self._start_timeout, another_may_come=True
            )
        self._vetting.took(revision)
        self.revision = str(revision)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is left open."""
