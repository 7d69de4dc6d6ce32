"""Parts for tests of OPA: small bundles, questions, and a server that answers in OPA's place what it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ostiary.decision.query import Answer
from ostiary.models import AccessRequest, Grant, Identity, Target

NOW = 1_790_000_000
REVISION = "7-0a1b2c3d"

ALLOWED: dict[str, Any] = {
    "allow": True,
    "reasons": [],
    "caller": "web",
    "service": "orders",
    "endpoint": "get-order",
    "permission": "web/orders/get-order/00000000",
    "grant": None,
    "credential": {"lifetime": 60, "per_call": False},
    "expires_at": None,
    "cache": {"max_age": 5, "vary": []},
    "requestable": None,
    "observed": False,
    "shadow": None,
}
"""An allow as the contract has it, for `request()`."""

DENIED: dict[str, Any] = {
    **ALLOWED,
    "allow": False,
    "reasons": ["permission-missing"],
    "permission": None,
    "credential": None,
}

REGO = """\
package ostiary.authz

decision := object.union(data.ostiary.map.answer, {"allow": allow})

default allow := false

allow if input.subject.id == "web"
"""
"""Answers what the data says, and allows the subject `web`."""

PROBES: list[dict[str, Any]] = [
    {"input": {"subject": {"id": "web"}}, "allow": True},
    {"input": {"subject": {"id": "nobody"}}, "allow": False},
]
"""Questions with answers, as every bundle brings them: those of `REGO`."""

ENDPOINTS = {"orders": {"get-order": "GET /orders/{order_id}", "admin": "GET /orders/admin", "list": "GET /orders"}}


def request(
    *,
    subject: str = "web",
    service: str = "orders",
    endpoint: str | None = None,
    grants: tuple[Grant, ...] = (),
    revision: str | None = None,
) -> AccessRequest:
    return AccessRequest(
        identity=Identity(issuer="https://idp.test", subject=subject, method="jwt", expires_at=NOW + 600),
        method="GET",
        target=Target(service=service, segments=("orders", "42"), path="/orders/42", query=None, pairs=()),
        time=NOW,
        source_ip="10.0.0.7",
        grants=grants,
        endpoint=endpoint,
        revision=revision,
    )


def answer(result: Any, *, revision: str | None = REVISION) -> Answer:
    return Answer(defined=True, result=result, revision=revision)


UNDEFINED = Answer(defined=False, result=None, revision=REVISION)


def write_bundle(
    directory: Path,
    *,
    revision: str = REVISION,
    rego: str = REGO,
    answer: dict[str, Any] | None = None,
    probes: Any = PROBES,
) -> Path:
    """Put a bundle where another may be, at once, as the builder does."""
    fresh = directory.with_name(directory.name + ".new")
    fresh.mkdir(parents=True)
    manifest = {"revision": revision, "roots": ["ostiary"], "rego_version": 1}
    (fresh / ".manifest").write_text(json.dumps(manifest))
    (fresh / "authz.rego").write_text(rego)
    data = {"ostiary": {"map": {"answer": answer or ALLOWED, "endpoints": ENDPOINTS, "probes": probes}}}
    (fresh / "data.json").write_text(json.dumps(data))
    old = directory.with_name(directory.name + ".old")
    if directory.exists():
        directory.rename(old)
    fresh.rename(directory)
    if old.exists():
        shutil.rmtree(old)
    return directory


def document(result: Any = ALLOWED, *, revision: str | None = REVISION, **more: Any) -> bytes:
    """What OPA's body would be for this result."""
    found: dict[str, Any] = {"result": result, **more}
    if revision is not None:
        found["provenance"] = {"version": "1.22.2", "bundles": {"main": {"revision": revision}}}
    return json.dumps(found).encode()


def response(body: bytes, *, status: int = 200, headers: str = "") -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


@dataclass
class FakeOpa:
    """A raw server: sends `reply` for each request, unparsed. `requests` are what came, head and body together.

    `reply` is bytes, a coroutine function that is given the writer, or None for no answer at all. With `close` the
    connection ends after the reply.
    """

    reply: bytes | Callable[[asyncio.StreamWriter], Any] | None = None
    close: bool = False
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0

    @contextlib.asynccontextmanager
    async def listening(self, socket: Path | None = None) -> AsyncIterator[str]:
        """Listen on a unix socket, or on loopback; the address to ask."""
        if socket is not None:
            server = await asyncio.start_unix_server(self._serve, socket)
            address = f"unix://{socket}"
        else:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield address
        finally:
            server.close()
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def __post_init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
                )
                self.requests.append(head + await reader.readexactly(length))
                if callable(self.reply):
                    await self.reply(writer)
                elif self.reply is not None:
                    writer.write(self.reply)
                    await writer.drain()
                if self.close:
                    break
        writer.close()


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until something that happens in another process or task has happened."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # what is waited for happens in other processes
            await asyncio.sleep(0.01)
