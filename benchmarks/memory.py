"""How large a worker is that keeps so many decisions: `python -m benchmarks.memory CONFIG COUNT`.

The worker is composed as the real one is, serves, and has a scripted client in place of the one that speaks with OPA;
10,000 identities ask about as many endpoints each as it takes. Prints `{"resident": bytes, "decisions": count}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import orjson
import uvloop

from benchmarks.processes import usage
from ostiary import app, deciding
from ostiary.clock import SystemClock
from ostiary.config import load_config
from ostiary.credential import ensure_signing_key
from ostiary.decision.cache import CachingAuthorizer
from ostiary.decision.horizon import PolicyHorizon
from ostiary.decision.query import Answer
from ostiary.demo.issuer import ISSUER
from ostiary.listening import Server, bind, listen, private_directory, quiet
from ostiary.models import AccessRequest, Identity, Json, Target
from ostiary.opa.address import OpaAddress
from ostiary.opa.client import OpaClient
from ostiary.opa.monitor import PolicyMonitor
from ostiary.worker import settle_collector

IDENTITIES: Final = 10_000
REVISION: Final = "1-0000000000000000"
_TOGETHER: Final = 32


class Allowing:
    """A `BatchQuery` that allows, in a document of its own each time, as the client that speaks with OPA does."""

    async def query(self, document: Mapping[str, Json]) -> Answer:
        resource = document["resource"]
        service, endpoint = resource["id"], resource["properties"]["endpoint"]
        result = {
            "allow": True,
            "reasons": [],
            "caller": "web",
            "service": service,
            "endpoint": endpoint,
            "permission": f"web/{service}/{endpoint}/00000000",
            "grant": None,
            "credential": {"lifetime": 60, "per_call": False},
            "expires_at": None,
            "cache": {"max_age": 5, "vary": []},
            "requestable": None,
            "observed": False,
            "shadow": None,
        }
        return Answer(defined=True, result=orjson.loads(orjson.dumps(result)), revision=REVISION)

    async def query_batch(self, documents: Sequence[Mapping[str, Json]]) -> list[Answer]:
        return [await self.query(document) for document in documents]


class Fresh:
    """A `Freshness` of a policy that is always the published one."""

    def age(self, revision: str) -> float:
        return 0.0


def questions(count: int) -> Iterator[AccessRequest]:
    """So many that no two of them share a decision, all of this second."""
    now = int(time.time())
    identities = [
        Identity(issuer=ISSUER, subject=f"subject-{n}", method="jwt", expires_at=now + 3600, token_id=f"{n:016x}")
        for n in range(IDENTITIES)
    ]
    for number in range(count):
        endpoint = number // IDENTITIES
        yield AccessRequest(
            identity=identities[number % IDENTITIES],
            method="GET",
            target=Target(
                service="orders",
                segments=(f"items{endpoint}", "42"),
                path=f"/items{endpoint}/42",
                query=None,
                pairs=(),
            ),
            time=now,
            source_ip="127.0.0.1",
            endpoint=f"endpoint-{endpoint}",
            revision=REVISION,
        )


async def main(path: Path, count: int) -> dict[str, Any]:
    config, clock = load_config(path, os.environ), SystemClock()
    private_directory(config.state)
    ensure_signing_key(config.signing_key_file, config.signing.algorithm)
    # All that the authorizer uses of the two.
    client, monitor = cast("OpaClient", Allowing()), cast("PolicyMonitor", Fresh())
    authorizer = deciding.opa_authorizer(config, client=client, monitor=monitor, horizon=PolicyHorizon(), clock=clock)
    if not isinstance(authorizer, CachingAuthorizer):
        raise SystemExit(f"{path} turns the cache off")
    port = config.listen.data.port
    policy = deciding.opa_policy(config, OpaAddress(socket=config.state / "none.sock"), clock=clock)
    policy = replace(policy, authorizer=authorizer, lifespan=contextlib.nullcontext())
    composed = app.compose(config, name="w0", port=port, policy=policy, clock=clock)
    with contextlib.closing(bind(config.listen.data.host, port)) as listener:
        async with composed.lifespan(), serving(composed, listener):
            asking = questions(count)
            # The first answer lets the revision be known; from then on decisions are kept.
            await authorizer.decide(next(questions(1)))
            while together := list(itertools.islice(asking, _TOGETHER)):
                await asyncio.gather(*(authorizer.decide(question) for question in together))
            return {"resident": usage(os.getpid()).resident, "decisions": authorizer.facts().allows}


@contextlib.asynccontextmanager
async def serving(composed: app.Composed, listener: socket.socket) -> AsyncIterator[None]:
    started = asyncio.Event()

    def settled() -> None:
        settle_collector()
        started.set()

    server = Server(quiet(composed.application, http=composed.protocol), started=settled)
    listen(listener)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await started.wait()
    try:
        yield
    finally:
        server.stop()
        await task


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(main(Path(sys.argv[1]), int(sys.argv[2])))))
