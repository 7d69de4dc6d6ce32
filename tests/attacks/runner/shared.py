"""The listeners of `listeners`, all in one process and over one policy: what one of them has been told is kept in the
cache that the others ask too. So a key that does not tell how an identity was proved would be found out here.

Nobody runs a proxy so. Everything but that is the shipped parts, put together as a worker does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

from attacks.runner.fixture import AuditTail
from attacks.runner.forgery import Forge
from attacks.runner.labs import Lab, Place
from attacks.runner.listeners import listening_proxy, surroundings
from ostiary import app, deciding
from ostiary.clock import SystemClock
from ostiary.config import load_config
from ostiary.credential.keys import ensure_signing_key
from ostiary.listening import Server, bind, listen, quiet
from ostiary.opa.address import OpaAddress


@contextlib.asynccontextmanager
async def shared_lab(place: Place) -> AsyncIterator[Lab]:
    """`known["listeners"]` as in `listeners_lab`, `known["authorizer"]` is the one of all."""
    names = place.extra["listeners"].split()
    clock, found = SystemClock(), dict[str, Lab]()
    async with surroundings(place) as (service, keys, here), contextlib.AsyncExitStack() as stack:
        configurations = {}
        for name in names:
            directory = here / name
            directory.mkdir(mode=0o700)
            listening_proxy(name, place, service, keys, here).configure(directory)
            configurations[name] = load_config(directory / "ostiary.yaml", {})
        opa = OpaAddress.parse(f"unix://{here / 'opa.sock'}")
        policy = deciding.opa_policy(configurations[names[0]], opa, clock=clock)
        await stack.enter_async_context(policy.lifespan)
        policy = dataclasses.replace(policy, lifespan=contextlib.nullcontext())
        for name, config in configurations.items():
            ensure_signing_key(config.signing_key_file, config.signing.algorithm)
            socket = bind("127.0.0.1", 0)
            port = socket.getsockname()[1]
            composed = app.compose(config, name=name.replace("+", "_"), port=port, policy=policy, clock=clock)
            await stack.enter_async_context(composed.lifespan())
            listen(socket)
            server = Server(quiet(composed.application, http=composed.protocol))
            serving = asyncio.create_task(server.serve(sockets=[socket]))
            stack.push_async_callback(_stopped, server, serving)
            found[name] = Lab(
                address=("127.0.0.1", port),
                forge=Forge(),
                service=service,
                audit=AuditTail(here / name / "audit"),
                keys=keys,
                authority=f"127.0.0.1:{service.port}",
                known={"listeners": found, "authorizer": policy.authorizer},
            )
        yield found[names[0]]


async def _stopped(server: Server, serving: asyncio.Task[None]) -> None:
    server.stop()
    await serving
