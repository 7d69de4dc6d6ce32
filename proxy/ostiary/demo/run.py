"""Putting the demo together: everything on loopback, on embedded defaults, in one private directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.types import ASGIApp

from ostiary import assets
from ostiary.config import CONFIGURATION, load_config
from ostiary.demo.issuer import AUDIENCE, ISSUER, DemoIssuer
from ostiary.demo.services import SERVICES, service_application
from ostiary.listening import Server, bind, listen, quiet
from ostiary.opa.install import Progress, ensure_opa
from ostiary.policy.bundle import build_bundle
from ostiary.supervisor import Supervisor
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
        return None if self.supervisor.policy is None else self.supervisor.policy.pid


@contextlib.asynccontextmanager
async def running_demo(
    place: Path, *, level: str = "error", progress: Progress = lambda _: None
) -> AsyncIterator[Demo]:
    """The demo in `place` (a private directory), serving when this is entered and ended when it is left.

    `progress` is told what takes long.

    Raises `ConfigurationError`, `OpaNotFound`, `OpaNotReady` or `OSError` when it cannot come up.
    """
    async with contextlib.AsyncExitStack() as stack:
        listeners = {name: stack.enter_context(_listening(port)) for name, port in _PREFERRED.items()}
        ports = {name: listener.getsockname()[1] for name, listener in listeners.items()}
        issuer = DemoIssuer(place)
        opa = ensure_opa(progress=progress)
        policy = place / "policy"
        shutil.copytree(assets.demo_bundle(), policy, dirs_exist_ok=True)
        build_bundle(policy, place / "bundle", opa=opa, sequence=1, rego_root=assets.rego())
        config = place / CONFIGURATION
        config.write_text(configuration(ports, level=level), encoding="utf-8")
        supervisor = Supervisor(load_config(config, os.environ), opa_binary=opa, data=listeners.pop("proxy"))
        applications: dict[str, ASGIApp] = {"issuer": issuer.application()}
        applications |= _services(place, proxy=ports["proxy"])
        await stack.enter_async_context(_served({listeners[name]: one for name, one in applications.items()}))
        await stack.enter_async_context(supervised(supervisor))
        yield Demo(place=place, ports=ports, issuer=issuer, supervisor=supervisor)


def _services(place: Path, *, proxy: int) -> dict[str, ASGIApp]:
    jwks_url = f"http://127.0.0.1:{proxy}/.well-known/jwks.json"
    return {
        name: service_application(
            name,
            verifier=Verifier(issuer=f"https://{OWN_HOST}", audience=name, jwks_url=jwks_url, host_header=OWN_HOST),
            directory=place,
        )
        for name in SERVICES
    }


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
async def _served(applications: Mapping[socket.socket, ASGIApp]) -> AsyncIterator[None]:
    """Each application behind its listening socket. They end together."""
    running = [(listener, _server(application)) for listener, application in applications.items()]
    serving = [asyncio.create_task(server.serve(sockets=[listener])) for listener, server in running]
    try:
        while not all(server.started for _, server in running):
            for task in serving:
                if task.done():
                    await task
            await asyncio.sleep(0.01)
        yield
    finally:
        for _, server in running:
            server.stop()
        await asyncio.gather(*serving)


def _server(application: ASGIApp) -> Server:
    return Server(quiet(application, lifespan="on"))


def _listening(preferred: int) -> contextlib.closing[socket.socket]:
    """A socket that listens on the preferred port, or on any other if that is taken."""
    try:
        found = _listen(preferred)
    except OSError:
        found = _listen(0)
    return contextlib.closing(found)


def _listen(port: int) -> socket.socket:
    """Bound and listening at once: another demo could bind to what only is bound."""
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(contextlib.closing(bind("127.0.0.1", port)))
        listen(found)
        stack.pop_all()
    return found


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
opa: {{managed: {{bundle: bundle}}, deadline: 2s}} # the default, 250ms, is short for a laptop that is busy
grants: {{url: "sqlite:///grants.db"}}
audit: {{path: audit/}}
logging: {{level: {level}}}
"""
