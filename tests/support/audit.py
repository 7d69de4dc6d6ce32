"""What audit tests are made of: one exchange, its question and answer, and sinks that behave badly on purpose."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from ostiary.access import NoBlocklist, NoRecourse
from ostiary.audit import AuditFiles, FileAuditLog
from ostiary.clock import Clock, SystemClock
from ostiary.exchange import Exchange
from ostiary.interfaces import AuditLog, Record, Underway
from ostiary.models import AccessRequest, CachePolicy, Credential, CredentialProfile, Decision, Identity, Target
from ostiary.pipeline import Pipeline
from ostiary.problem import Problems

SECRET = "Bearer never-to-be-seen"


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: Any) -> None:
    return None


def exchange(
    *,
    method: str = "GET",
    raw_path: bytes = b"/orders/42",
    query: bytes = b"",
    headers: Sequence[tuple[bytes, bytes]] = ((b"host", b"orders.localhost"), (b"authorization", SECRET.encode())),
) -> Exchange:
    scope = {
        "type": "http",
        "method": method,
        "raw_path": raw_path,
        "query_string": query,
        "headers": list(headers),
        "client": ("10.0.0.7", 4711),
    }
    return Exchange(scope, _receive, _send)


def target(*, path: str = "/orders/42") -> Target:
    return Target(
        service="orders", segments=tuple(path[1:].split("/")), path=path, query="page=2", pairs=(("page", "2"),)
    )


def identity(**changes: Any) -> Identity:
    fields: dict[str, Any] = {
        "issuer": "https://idp.test",
        "subject": "web",
        "method": "jwt",
        "expires_at": 1_790_003_600,
        "claims": {"groups": ["support"]},
        "token_id": "t-1",
    }
    return Identity(**{**fields, **changes})


def request(*, proven: Identity | None = None, aimed: Target | None = None) -> AccessRequest:
    return AccessRequest(
        identity=proven or identity(),
        method="GET",
        target=aimed or target(),
        time=1_790_000_000,
        source_ip="10.0.0.7",
        endpoint="get-order",
    )


def decision(**changes: Any) -> Decision:
    fields: dict[str, Any] = {
        "allow": True,
        "reasons": (),
        "caller": "web",
        "service": "orders",
        "endpoint": "get-order",
        "permission": "web/orders/get-order/00000000",
        "grant": None,
        "credential": CredentialProfile(lifetime=60, per_call=False),
        "expires_at": None,
        "cache": CachePolicy(max_age=5, vary=()),
        "requestable": None,
        "observed": False,
        "shadow": None,
        "revision": "7-abc",
        "cached": False,
    }
    return Decision(**{**fields, **changes})


def credential(jti: str = "c-1") -> Credential:
    return Credential(header=(b"authorization", b"Bearer minted-and-secret"), id=jti, expires_at=1_790_000_060)


def file_log(
    directory: Path,
    *,
    worker: str = "w0",
    max_bytes: int = 1 << 20,
    keep: int | None = None,
    sync: bool = False,
    clock: Clock | None = None,
    **settings: Any,
) -> FileAuditLog:
    """A `FileAuditLog` over real files."""
    clock = SystemClock() if clock is None else clock
    files = AuditFiles(
        directory=directory, worker=worker, clock=SystemClock(), max_bytes=max_bytes, keep=keep, sync=sync
    )
    return FileAuditLog(sink=files, worker=worker, clock=clock, **settings)


async def let_through(record: Record) -> None:
    """Tell a record what the pipeline tells it of an allowed request, until the upstream is called."""
    record.resolved(target())
    record.identified(identity())
    record.decided(request(), decision())
    await record.commit(credential())


async def forward(log: Any, *, body: bytes = b"{}") -> str:
    """One allowed request, from record to completion. Its decision id."""
    carried = exchange()
    with log.record(carried) as record:
        await let_through(record)
        await carried.respond(200, [], body)
    return carried.id


def lines(directory: Path) -> list[dict[str, Any]]:
    """Every line of every file; each file must be whole."""
    found = []
    for path in sorted(directory.glob("*.ndjson")):
        content = path.read_bytes()
        assert content.isascii()
        assert not content or content.endswith(b"\n")
        found += [json.loads(line) for line in content.splitlines()]
    return found


def written(directory: Path) -> bytes:
    """The bytes of all files, in their order."""
    return b"".join(path.read_bytes() for path in sorted(directory.glob("*.ndjson")))


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what has no event of its own: the content of a file."""
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)


class PipeSink:
    """A `Sink` that is a pipe: writing blocks when nobody reads, as a disk does that has stopped answering."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()
        self.closed = threading.Event()

    def open(self) -> None:
        return

    def append(self, lines: Sequence[bytes]) -> None:
        rest = memoryview(b"".join(lines))
        while rest:
            rest = rest[os.write(self._writer, rest) :]

    def close(self) -> None:
        os.close(self._writer)
        self.closed.set()

    def fill(self) -> None:
        """Leave no room: the next append blocks."""
        os.set_blocking(self._writer, False)
        try:
            while True:
                os.write(self._writer, b"\n" * 4096)
        except BlockingIOError:
            os.set_blocking(self._writer, True)

    def drain(self) -> bytes:
        """What can be read now, without waiting."""
        os.set_blocking(self.reader, False)
        content = b""
        try:
            while piece := os.read(self.reader, 65536):
                content += piece
        except BlockingIOError:
            pass
        return content


class Stages:
    """The other stages of a pipeline, each scripted: with what it returns, what it raises, or what it does."""

    def __init__(
        self,
        *,
        resolve: Any = None,
        concierge: Any = False,
        identify: Any = None,
        decide: Any = None,
        swap: Any = None,
        upstream: Any = None,
        send: Exception | None = None,
    ) -> None:
        self._resolve = resolve or target()
        self._concierge = concierge
        self._identify = identify or identity()
        self._decide = decide or decision()
        self._swap = swap or credential()
        self._upstream = upstream
        self._send = send

    def pipeline(self, audit: AuditLog) -> Pipeline:
        return Pipeline(
            audit=audit,
            targets=self,
            concierge=self,
            authenticator=self,
            requests=self,
            blocklist=NoBlocklist(),
            reception=self,
            authorizer=self,
            warden=self,
            recourse=NoRecourse(),
            keeper=self,
            swapper=self,
            upstream=self,
            problems=Problems(),
        )

    def asgi(self, **sent: Any) -> tuple[Any, Any, Any]:
        """Scope, receive and send of one request."""

        async def send(message: Any) -> None:
            if self._send is not None:
                raise self._send

        return exchange(**sent).scope, _receive, send

    def resolve(self, carried: Exchange) -> Target:
        return _returned(self._resolve)

    async def answer(self, carried: Exchange, aimed: Target) -> bool:
        return await self._concierge(carried, aimed) if callable(self._concierge) else self._concierge

    async def identify(self, carried: Exchange) -> Identity:
        return _returned(self._identify)

    def build(self, carried: Exchange, aimed: Target, proven: Identity) -> AccessRequest:
        return request(proven=proven, aimed=aimed)

    async def decide(self, asked: AccessRequest) -> Decision:
        return await self._decide(asked) if callable(self._decide) else _returned(self._decide)

    async def serve(self, carried: Exchange, asked: AccessRequest) -> bool:
        return False

    def admit(self, carried: Exchange, asked: AccessRequest, answered: Decision) -> AbstractContextManager[Any]:
        return nullcontext()

    async def take(self, underway: Underway) -> None: ...

    async def swap(self, asked: AccessRequest, answered: Decision) -> Credential:
        return _returned(self._swap)

    async def forward(
        self,
        carried: Exchange,
        aimed: Target,
        proven: Identity,
        given: Credential,
        renew: Callable[[], Awaitable[Credential]],
    ) -> None:
        if self._upstream is not None:
            await self._upstream(carried)


def _returned(scripted: Any) -> Any:
    if isinstance(scripted, Exception):
        raise scripted
    return scripted


class ScriptedSink:
    """A `Sink` in memory that fails where its script says so, and keeps what it was given otherwise."""

    def __init__(self, script: Sequence[Exception | None] = ()) -> None:
        self._script = list(script)
        self.lines: list[bytes] = []

    def open(self) -> None:
        return

    def append(self, lines: Sequence[bytes]) -> None:
        outcome = self._script.pop(0) if self._script else None
        if outcome is not None:
            raise outcome
        self.lines += lines

    def close(self) -> None:
        return
