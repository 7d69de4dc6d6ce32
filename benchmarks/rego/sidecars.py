"""OPA as it runs beside the proxy: managed, and so replaced with each bundle, or one that stays and fetches bundles.

What differs most is how a bundle becomes active: in a process of its own, or beside the one before it in the same
process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from benchmarks.rego.publishing import BundleServer, packed, stamped
from ostiary.decision.revision import Revision
from ostiary.errors import PolicyUnavailable
from ostiary.opa.address import OpaAddress
from ostiary.opa.client import OpaClient
from ostiary.opa.probe import wait_until_ready
from ostiary.opa.process import command
from ostiary.opa.sidecar import ManagedOpa

PATIENCE: Final = 300.0
"""Seconds for OPA to have a bundle active."""

_LOOK: Final = 0.1
"""Seconds between two looks at the directory of the managed OPA's bundle."""
_POLL: Final = 1
"""Seconds between two polls of the bundle server: the least that OPA can be told."""


class Sidecar(Protocol):
    @property
    def address(self) -> OpaAddress: ...

    @property
    def pid(self) -> int:
        """The process that answers now."""

    async def activate(self, bundle: Path, *, sequence: int) -> None:
        """Publish the bundle with this sequence; return when it is active, and has answered a first question."""


@dataclass(frozen=True, kw_only=True)
class _Managed:
    """`bundle` is the directory that it watches; what it takes over from there comes into `active`."""

    opa: ManagedOpa
    bundle: Path
    active: asyncio.Queue[Revision]

    @property
    def address(self) -> OpaAddress:
        return self.opa.address

    @property
    def pid(self) -> int:
        return _running(self.opa.pid)

    async def activate(self, bundle: Path, *, sequence: int) -> None:
        revision = stamped(bundle, self.bundle, sequence=sequence)
        async with asyncio.timeout(PATIENCE):
            while await self.active.get() != revision:
                pass


@contextlib.asynccontextmanager
async def managed(opa: Path, bundle: Path, place: Path) -> AsyncIterator[Sidecar]:
    """As `ostiary run` starts it. `place` is made; a unix socket is below it, so its path is short."""
    watched, active = _made(place) / "bundle", asyncio.Queue[Revision]()
    stamped(bundle, watched, sequence=1)
    owner = ManagedOpa(
        binary=opa,
        bundle=watched,
        directory=place / "run",
        on_active=active.put_nowait,
        start_timeout=PATIENCE,
        interval=_LOOK,
    )
    async with owner:
        yield _Managed(opa=owner, bundle=watched, active=active)


@dataclass(frozen=True, kw_only=True)
class _Fetching:
    process: asyncio.subprocess.Process
    address: OpaAddress
    server: BundleServer
    published: Path

    @property
    def pid(self) -> int:
        return _running(self.process.pid if self.process.returncode is None else None)

    async def activate(self, bundle: Path, *, sequence: int) -> None:
        revision = stamped(bundle, self.published, sequence=sequence)
        self.server.publish(packed(self.published), str(revision))
        await self.ready(revision)

    async def ready(self, revision: Revision) -> None:
        async def accept(found: Revision) -> None:
            if found != revision:
                raise PolicyUnavailable(f"{found} is active")

        async with OpaClient(address=self.address, deadline=PATIENCE) as client:
            await wait_until_ready(client, accept=accept, patience=PATIENCE)


@contextlib.asynccontextmanager
async def fetching(opa: Path, bundle: Path, place: Path) -> AsyncIterator[Sidecar]:
    """One that stays, and polls a bundle server as docs/operations.md has it. `place` as in `managed`.

    Its command line is the managed one's, but for the bundle. Its environment says nothing about memory.
    """
    _made(place)
    config, published, address = place / "opa.json", place / "bundle", OpaAddress(socket=place / "opa.sock")
    revision = stamped(bundle, published, sequence=1)
    server = BundleServer(packed(published), str(revision))
    config.write_text(json.dumps(configuration(server.port)), encoding="utf-8")
    start = [*_without_bundle(command(binary=opa, bundle=published, socket=place / "opa.sock")), "--config-file"]
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    with server.serving(), (place / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            *start, config, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
        sidecar = _Fetching(process=process, address=address, server=server, published=published)
        try:
            await sidecar.ready(revision)
            yield sidecar
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


def configuration(port: int) -> Mapping[str, object]:
    """OPA's, with a bundle server at this port of ours."""
    polling = {"min_delay_seconds": _POLL, "max_delay_seconds": _POLL}
    return {
        "services": {"policy": {"url": f"http://127.0.0.1:{port}"}},
        "bundles": {"bench": {"service": "policy", "resource": "bench.tar.gz", "polling": polling}},
        "status": {"prometheus": True},
    }


def _without_bundle(managed_command: Sequence[str]) -> Sequence[str]:
    *others, option, _ = managed_command
    if option != "--bundle":
        raise ValueError(f"the managed OPA is started in another way: {managed_command}")
    return others


def _made(place: Path) -> Path:
    place.mkdir(mode=0o700)
    return place


def _running(pid: int | None) -> int:
    if pid is None:
        raise SystemExit("OPA has ended")
    return pid
