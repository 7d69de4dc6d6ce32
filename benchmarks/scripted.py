"""A worker with everything on but OPA: a scripted authorizer allows, so that the rest of the path is measured."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import uvloop

from ostiary.access import NoPrediction
from ostiary.app import Policy, compose
from ostiary.clock import SystemClock
from ostiary.config import load_config
from ostiary.credential import ensure_signing_key
from ostiary.decision.scripted import ScriptedAuthorizer, allow
from ostiary.listening import Server, bind, listen, private_directory, quiet
from ostiary.models import AccessRequest, Decision
from ostiary.opa.catalog import CatalogEntry
from ostiary.worker import settle_collector


class OneEndpoint:
    """An endpoint catalog that knows the one endpoint of the bench."""

    async def template(self, service: str, endpoint: str, revision: str) -> CatalogEntry:
        return CatalogEntry(method="GET", path="/orders/{order_id}", beside=())


def allowed_once() -> Callable[[AccessRequest], Decision]:
    """A line that allows, and gives all the decision that it made for the first: the request is always the same."""
    line, made = allow(), list[Decision]()

    def again(request: AccessRequest) -> Decision:
        if not made:
            made.append(line(request))
        return made[0]

    return again


async def main(path: Path) -> None:
    config = load_config(path, os.environ)
    private_directory(config.state)
    ensure_signing_key(config.signing_key_file, config.signing.algorithm)
    policy = Policy(
        authorizer=ScriptedAuthorizer([allowed_once()], repeat=True),
        catalog=OneEndpoint(),
        predictor=NoPrediction(),
        lifespan=contextlib.nullcontext(),
    )
    with contextlib.closing(bind(config.listen.data.host, config.listen.data.port)) as listener:
        composed = compose(config, name="w0", port=config.listen.data.port, policy=policy, clock=SystemClock())
        listen(listener)
        settle_collector()
        server = Server(quiet(composed.application, http=composed.protocol, lifespan="on"))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
        await server.serve(sockets=[listener])


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Path(sys.argv[1])))
