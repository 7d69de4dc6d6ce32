"""Putting the demo together: everything on loopback, on embedded defaults, in one private directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from ostiary import assets
from ostiary.config import load_config
from ostiary.demo.issuer import AUDIENCE, ISSUER, DemoIssuer
from ostiary.demo.services import SERVICES, service_application
from ostiary.opa.install import ensure_opa
from ostiary.opa.sidecar import ManagedOpa
from ostiary.policy.bundle import build_bundle
from ostiary.supervisor import Supervisor, bind
from ostiary.verify import Verifier

_PREFERRED: Final = {"proxy": 8080, "issuer": 9000, "orders": 9001, "billing": 9002, "reports": 9003}
OWN_HOST: Final = "ostiary.localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """A demo that runs. `ports` has one for `proxy`, `issuer` and each service, all on 127.0.0.1."""

    place: Path
    ports: dict[str, int]
    issuer: DemoIssuer
    supervisor: Supervisor

    @property
    def audit(self) -> Path:
        return self.place / "audit"

    @property
    def opa_pid(self) -> int | None:
        """The process of the managed OPA that serves, if one does."""
        return self.supervisor.opa.pid if isinstance(self.supervisor.opa, ManagedOpa) else None


@contextlib.asynccontextmanager
async def running_demo(place: Path, *, level: str = "error") -> AsyncIterator[Demo]:
    """The demo in `place` (a private directory), serving when this is entered and ended when it is left.

    Raises `ConfigurationError`, `OpaNotFound` or `OpaNotReady` when it cannot come up.
    """
    listeners = {name: _listen(port) for name, port in _PREFERRED.items()}
    ports = {name: listener.getsockname()[1] for name, listener in listeners.items()}
    listeners.pop("proxy").close()  # the supervisor binds it itself
    issuer = DemoIssuer(place)
    policy = place / "policy"
    shutil.copytree(assets.demo_bundle(), policy, dirs_exist_ok=True)
    build_bundle(policy, place / "bundle", opa=ensure_opa(), sequence=1, rego_root=assets.rego())
    config = place / "ostiary.yaml"
    config.write_text(configuration(ports, level=level), encoding="utf-8")
    applications: dict[str, ASGIApp] = {"issuer": issuer.application()}
    for service in SERVICES:
        verifier = Verifier(
            issuer=f"https://{OWN_HOST}",
            audience=service,
            jwks_url=f"http://127.0.0.1:{ports['proxy']}/.well-known/jwks.json",
            host_header=OWN_HOST,
        )
        applications[service] = service_application(service, verifier=verifier, directory=place)
    supervisor = Supervisor(load_config(config, os.environ))
    async with contextlib.AsyncExitStack() as stack:
        for name, application in applications.items():
            await stack.enter_async_context(_served(application, listeners[name]))
        await stack.enter_async_context(supervised(supervisor))
        yield Demo(place=place, ports=ports, issuer=issuer, supervisor=supervisor)


@contextlib.asynccontextmanager
async def supervised(supervisor: Supervisor) -> AsyncIterator[None]:
    """A supervisor that serves when this is entered, and has drained when it is left."""
    running = asyncio.create_task(supervisor.run(), name="supervisor")
    ready = asyncio.create_task(supervisor.ready.wait())
    try:
        await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running  # raises what went wrong
        yield
    finally:
        ready.cancel()
        supervisor.stop()
        await running


@contextlib.asynccontextmanager
async def _served(application: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    server = _Server(uvicorn.Config(application, log_config=None, access_log=False, ws="none", lifespan="on"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if serving.done():
                await serving
            await asyncio.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    """Signals are the supervisor's."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


def _listen(preferred: int) -> socket.socket:
    """A listening socket on the preferred port, or on any other if that is taken."""
    try:
        return bind("127.0.0.1", preferred)
    except OSError:
        return bind("127.0.0.1", 0)


def configuration(ports: dict[str, int], *, level: str = "info") -> str:
    """The demo's `ostiary.yaml`, as a person would have written it."""
    services = "\n".join(
        f'  {service}: {{hosts: [{service}.localhost], upstream: "http://127.0.0.1:{ports[service]}", '
        f"credential: {{strategy: minted, lifetime: 60s}}}}"
        for service in SERVICES
    )
    return f"""\
# The demo's configuration. Every key is explained in docs/configuration.md.
listen: {{data: 127.0.0.1:{ports["proxy"]}, admin: "unix:run/admin.sock", identity: [jwt]}}
own_host: {OWN_HOST}
issuers:
  - {{issuer: {ISSUER}, audience: {AUDIENCE}, jwks_url: http://127.0.0.1:{ports["issuer"]}/jwks,
     algorithms: [ES256], claims: [groups]}}
services:
{services}
opa: {{managed: {{bundle: bundle}}}}
audit: {{path: audit/}}
logging: {{level: {level}}}
"""
