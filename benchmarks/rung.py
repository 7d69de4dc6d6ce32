"""One worker of ostiary in which some stages are stand-ins, so that what each of the others costs can be seen:

    python -m benchmarks.rung CONFIG pass-through|identity|decision|swap|audit|scripted

The worker is composed as the real one is, then stages are replaced. `pass-through` keeps the strict listener, the
canonical target and the forwarder; each rung after it keeps one stage more (`decision` with it the question). A
stand-in does the least that its interface allows, and gives what the stage would have given, so that as much is
forwarded on every rung. On the last, `audit`, there is none: what is missing of the proxy is its supervisor.

`scripted` is everything but the decision: a scripted authorizer allows.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import uvloop

from ostiary import app, deciding
from ostiary.clock import SystemClock
from ostiary.config import load_config
from ostiary.credential import ensure_signing_key
from ostiary.decision.scripted import ScriptedAuthorizer, allow
from ostiary.demo.issuer import ISSUER
from ostiary.errors import AccessError
from ostiary.exchange import Exchange
from ostiary.interfaces import Authorizer, Record
from ostiary.listening import Server, bind, listen, private_directory, quiet
from ostiary.models import AccessRequest, Credential, Decision, Identity, Target
from ostiary.opa.install import ensure_opa
from ostiary.opa.sidecar import ManagedOpa
from ostiary.worker import settle_collector

RUNGS: Final = ("pass-through", "identity", "decision", "swap", "audit")
SCRIPTED: Final = "scripted"

_CREDENTIAL_BYTES: Final = 600
"""About as many as a minted credential has."""


class Anyone:
    """An `Authenticator` that has proved the same every time."""

    def __init__(self) -> None:
        self._identity = Identity(
            issuer=ISSUER, subject="web", method="jwt", expires_at=int(time.time()) + 3600, token_id="0" * 16
        )

    async def identify(self, exchange: Exchange) -> Identity:
        return self._identity


class SameQuestion:
    """A `RequestBuilder` that predicts no endpoint and asks what it asked first."""

    def __init__(self) -> None:
        self._request: AccessRequest | None = None

    def build(self, exchange: Exchange, target: Target, identity: Identity) -> AccessRequest:
        if self._request is None:
            self._request = AccessRequest(
                identity=identity, method=exchange.method, target=target, time=int(time.time()), source_ip="127.0.0.1"
            )
        return self._request


class SameCredential:
    """A `CredentialSwapper` that has one credential for all."""

    def __init__(self) -> None:
        self._credential = Credential(
            header=(b"authorization", b"Bearer " + b"x" * _CREDENTIAL_BYTES),
            id="0" * 22,
            expires_at=int(time.time()) + 3600,
        )

    async def swap(self, request: AccessRequest, decision: Decision) -> Credential:
        return self._credential


class Unrecorded:
    """An `AuditLog` of nothing, and the one `Record` that it gives."""

    def record(self, exchange: Exchange) -> AbstractContextManager[Record]:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def resolved(self, target: Target) -> None: ...
    def identified(self, identity: Identity) -> None: ...
    def decided(self, request: AccessRequest, decision: Decision) -> None: ...
    def refused(self, refusal: AccessError) -> None: ...
    async def commit(self, credential: Credential) -> None: ...


class NoConcierge:
    async def answer(self, exchange: Exchange, target: Target) -> bool:
        return False


def allowing(revision: str) -> Authorizer:
    """An `Authorizer` that allows, and gives to all the decision that it made for the first."""
    line, made = allow(revision=revision), list[Decision]()

    def again(request: AccessRequest) -> Decision:
        if not made:
            made.append(line(request))
        return made[0]

    return ScriptedAuthorizer([again], repeat=True)


def lacking(rung: str) -> tuple[str, ...]:
    """The stages that come with later rungs."""
    return () if rung == SCRIPTED else RUNGS[RUNGS.index(rung) + 1 :]


def stand_ins(rung: str) -> dict[str, object]:
    """What takes the place of stages that this rung lacks, by the pipeline's name for them."""
    found: dict[str, dict[str, object]] = {
        "identity": {"_authenticator": Anyone()},
        "decision": {"_requests": SameQuestion()},
        "swap": {"_swapper": SameCredential()},
        "audit": {"_audit": Unrecorded(), "_concierge": NoConcierge()},
    }
    return {name: stage for one in lacking(rung) for name, stage in found[one].items()}


def substitute(application: app.DataApplication, stages: dict[str, object]) -> None:
    """Put them into the pipeline. It has no way in for that, rightly: what it is made of is nobody's but `app`'s."""
    pipeline = application._gate._http
    for name, stage in stages.items():
        if not hasattr(pipeline, name):
            raise SystemExit(f"the pipeline has no {name}: the rungs have to be made anew")
        setattr(pipeline, name, stage)


async def main(path: Path, rung: str) -> None:
    if rung not in (*RUNGS, SCRIPTED):
        raise SystemExit(f"no rung {rung}")
    config, clock = load_config(path, os.environ), SystemClock()
    if config.opa.managed is None:
        raise SystemExit(f"{path}: a rung has an OPA of its own")
    private_directory(config.state)
    ensure_signing_key(config.signing_key_file, config.signing.algorithm)
    port = config.listen.data.port
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(contextlib.closing(bind(config.listen.data.host, port)))
        opa = await stack.enter_async_context(
            ManagedOpa(binary=ensure_opa(), bundle=config.opa.managed.bundle, directory=config.state / "opa")
        )
        policy = deciding.opa_policy(config, opa.address, clock=clock)
        if rung == SCRIPTED or "decision" in lacking(rung):
            policy = replace(policy, authorizer=allowing(opa.revision or ""))
        composed = app.compose(config, name="w0", port=port, policy=policy, clock=clock)
        substitute(composed.application, stand_ins(rung))
        server = Server(quiet(composed.application, http=composed.protocol), started=settle_collector)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
        await stack.enter_async_context(composed.lifespan())
        listen(listener)
        await server.serve(sockets=[listener])


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Path(sys.argv[1]), sys.argv[2]))
