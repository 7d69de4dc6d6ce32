"""What `ostiary check` looks at: the Rego as OPA sees it, and every part that the proxy will need."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ostiary import assets
from ostiary.app import issuer_settings
from ostiary.clock import SystemClock
from ostiary.config import Config
from ostiary.errors import ConfigurationError
from ostiary.identity import build_authenticator
from ostiary.opa.address import OpaAddress
from ostiary.opa.external import ExternalOpa
from ostiary.opa.install import OpaNotFound, ensure_opa
from ostiary.opa.probe import OpaNotReady
from ostiary.opa.sidecar import ManagedOpa
from ostiary.policy.bundle import build_bundle

_PATIENCE: Final = 5.0
"""Seconds that a part has for its answer."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `wrong` is what keeps the proxy from doing its work."""

    part: str
    state: Literal["ok", "warning", "wrong"]
    what: str

    def document(self) -> dict[str, str]:
        return {"part": self.part, "state": self.state, "what": self.what}


def check_policy(source: Path) -> list[Finding]:
    """Whether the sources compile to a bundle that OPA accepts."""
    with tempfile.TemporaryDirectory(prefix="ostiary-check-") as place:
        try:
            built = build_bundle(source, Path(place) / "bundle", opa=ensure_opa(), sequence=0, rego_root=assets.rego())
        except ConfigurationError as error:
            return [Finding("Rego", "wrong", mistake) for mistake in error.mistakes]
        except OpaNotFound as error:
            return [Finding("Rego", "wrong", str(error))]
    return [Finding("Rego", "warning", warning) for warning in built.warnings] or [Finding("Rego", "ok", str(source))]


async def reach_parts(config: Config) -> list[Finding]:
    """Whether OPA, every issuer's keys, every upstream and the audit directory are there, all asked at once."""
    looks: list[Awaitable[list[Finding]]] = [_opa(config), _issuers(config), _audit(config)]
    looks += [
        _upstream(name, service.upstream.host, service.upstream.port) for name, service in config.services.items()
    ]
    return [finding for found in await asyncio.gather(*looks) for finding in found]


async def _opa(config: Config) -> list[Finding]:
    try:
        async with _policy(config) as opa:
            return [Finding("OPA", "ok", f"serves the bundle {opa.revision}")]
    except (OpaNotFound, OpaNotReady, ValueError, OSError) as error:
        return [Finding("OPA", "wrong", str(error))]


@contextlib.asynccontextmanager
async def _policy(config: Config) -> AsyncIterator[ManagedOpa | ExternalOpa]:
    opa = config.opa
    if opa.managed is None:
        token = None if opa.token is None else opa.token.get_secret_value()
        address = OpaAddress.parse(str(opa.url))
        async with ExternalOpa(address=address, token=token, start_timeout=_PATIENCE) as external:
            yield external
        return
    binary = opa.managed.binary or await asyncio.to_thread(ensure_opa)
    async with ManagedOpa(binary=binary, bundle=opa.managed.bundle) as managed:  # in a directory of its own
        yield managed


async def _issuers(config: Config) -> list[Finding]:
    authenticator = build_authenticator([issuer_settings(one) for one in config.issuers], clock=SystemClock())
    await authenticator.start()
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while not authenticator.ready and any(
                    one.failure is None and not one.ready for one in authenticator.health()
                ):
                    await asyncio.sleep(0.05)
        return [
            Finding("issuer", "ok", f"{one.issuer}: {one.keys} key(s)")
            if one.ready
            else Finding("issuer", "wrong", f"{one.issuer}: {one.failure or 'no answer'}")
            for one in authenticator.health()
        ]
    finally:
        await authenticator.close()


async def _upstream(name: str, host: str, port: int) -> list[Finding]:
    try:
        async with asyncio.timeout(_PATIENCE):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return [Finding("upstream", "wrong", f"{name}: {host}:{port} does not answer")]
    except (OSError, socket.gaierror) as error:
        return [Finding("upstream", "wrong", f"{name}: {host}:{port}: {error.strerror or error}")]
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return [Finding("upstream", "ok", f"{name}: {host}:{port}")]


async def _audit(config: Config) -> list[Finding]:
    path = config.audit.path
    nearest = next(parent for parent in (path, *path.parents) if parent.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return [Finding("audit", "ok", str(path))]
    return [Finding("audit", "wrong", f"{path} cannot be written")]
