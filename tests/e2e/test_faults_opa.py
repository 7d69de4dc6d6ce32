"""An OPA that is slow, answers garbage, or comes back with another bundle: what is not clearly an allow forwards
nothing, and a good answer counts again at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import pytest

from ostiary import assets
from ostiary.policy.bundle import build_bundle
from support.faults import asked, changed_proxy, eventually, status_of
from support.forwarding import replies, response
from support.proxy import PERMISSIONS, RunningProxy
from support.upstream import RawUpstream

WITHOUT_ORDER_42 = PERMISSIONS.replace("list-orders, get-order, head-order", "list-orders, head-order")

Spoil = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
"""Is given the decision that OPA made, as it answered, and the connection that it would have gone out on."""


class Between:
    """Stands between the proxy and a real OPA, on a unix socket. `spoil` gets the answers to questions; all else
    passes, and so does everything while it is None."""

    def __init__(self, opa: Path) -> None:
        self._opa = opa
        self.spoil: Spoil | None = None
        self.questions = 0

    @asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[str]:
        tasks: set[asyncio.Task[Any]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            if task is not None:
                tasks.add(task)
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                await self._serve(reader, writer)
            writer.close()

        server = await asyncio.start_unix_server(serve, path)
        try:
            yield f"unix://{path}"
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._opa))) as session:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
                lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(lengths[0])) if lengths else b""
                async with session.request(
                    method, f"http://opa{path}", data=body, headers={"content-type": "application/json"}
                ) as got:
                    answer = http(await got.read(), status=got.status)
                if "/authz/decision" not in path:
                    writer.write(answer)
                    continue
                self.questions += 1
                if self.spoil is None:
                    writer.write(answer)
                else:
                    await self.spoil(answer, writer)


def http(body: bytes, *, status: int = 200, headers: str = "") -> bytes:
    lines = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return lines.encode() + body


def says(raw: bytes) -> Spoil:
    """This, in place of the answer."""

    async def spoil(answer: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    return spoil


def says_and_closes(raw: bytes) -> Spoil:
    async def spoil(answer: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        writer.close()

    return spoil


def late(seconds: float) -> Spoil:
    async def spoil(answer: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        writer.write(answer)

    return spoil


def changed(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    """The answer that OPA gave, changed."""

    async def spoil(answer: bytes, writer: asyncio.StreamWriter) -> None:
        document = json.loads(answer.partition(b"\r\n\r\n")[2])
        writer.write(http(json.dumps(change(document) or document).encode()))

    return spoil


def decisions(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Those in an answer, which is to one question or to several."""
    result = document["result"]
    return result if isinstance(result, list) else [result]


def each(**members: Any) -> Spoil:
    """Each decision with these members; None takes one out."""

    def change(document: dict[str, Any]) -> None:
        for decision in decisions(document):
            decision.update(members)
            for name in [name for name, value in members.items() if value is ...]:
                del decision[name]

    return changed(change)


async def _trickles(answer: bytes, writer: asyncio.StreamWriter) -> None:
    for byte in answer:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.05)


async def _without_end(answer: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not writer.transport.is_closing():
        writer.write(b"10000\r\n%s\r\n" % (b" " * 65536))
        await writer.drain()
        await asyncio.sleep(0)


async def _twice(answer: bytes, writer: asyncio.StreamWriter) -> None:
    document = answer.partition(b"\r\n\r\n")[2]
    writer.write(http(document.replace(b'"allow":', b'"allow":false,"allow":', 1)))


def _old_revision(document: dict[str, Any]) -> None:
    for bundle in document["provenance"]["bundles"].values():
        bundle["revision"] = "1-0000000000000000"


def _no_revision(document: dict[str, Any]) -> None:
    del document["provenance"]


def _one_too_many(document: dict[str, Any]) -> None:
    document["result"] = [*decisions(document), *decisions(document), *decisions(document)]


def _of_another(document: dict[str, Any]) -> None:
    for decision in decisions(document):
        decision["endpoint"] = "export"


DEADLINE = 2
"""Seconds that OPA has for an answer: many more than it takes, on a machine that is busy."""
UNAVAILABLE = (503, ["policy-unavailable"])
DENIED = (403, ["policy-denied"])

SPOILT = {
    "nothing, for longer than the deadline": (late(2 * DEADLINE), UNAVAILABLE),
    "one byte at a time": (_trickles, UNAVAILABLE),
    "nothing, and closes": (says_and_closes(b""), UNAVAILABLE),
    "half a head, and closes": (says_and_closes(b"HTTP/1.1 200 OK\r\nContent-"), UNAVAILABLE),
    "half a body, and closes": (says_and_closes(http(b'{"result": {"allow": true}')[:-4]), UNAVAILABLE),
    "no HTTP": (says_and_closes(b"\x00\x01\x02allow"), UNAVAILABLE),
    "no JSON": (says(http(b"allow")), UNAVAILABLE),
    "nothing at all": (says(http(b"")), UNAVAILABLE),
    "a list": (says(http(b"[]")), UNAVAILABLE),
    "a page": (says(http(b"<html>", status=200)), UNAVAILABLE),
    "a failure": (says(http(b'{"code": "internal_error"}', status=500)), UNAVAILABLE),
    "an allow with a failure": (says(http(b'{"result": {"allow": true}}', status=500)), UNAVAILABLE),
    "a redirect": (says(http(b"", status=307, headers="Location: http://127.0.0.1:9/\r\n")), UNAVAILABLE),
    "an answer without end": (_without_end, UNAVAILABLE),
    "allow, twice": (_twice, UNAVAILABLE),
    "an allow of an older bundle": (changed(_old_revision), UNAVAILABLE),
    "an allow of no bundle": (changed(_no_revision), UNAVAILABLE),
    "more answers than questions": (changed(_one_too_many), None),
    "an allow of another endpoint": (changed(_of_another), UNAVAILABLE),
    "an allow without a credential": (each(credential=None), UNAVAILABLE),
    "an allow that lacks a field": (each(permission=...), UNAVAILABLE),
    "an allow with a field more": (each(because="yes"), UNAVAILABLE),
    "allow, in words": (each(allow="true"), None),
    "allow, as a number": (each(allow=1), None),
    "allow, as an object": (each(allow={}), None),
    "nothing of allow": (each(allow=...), None),
}
"""What OPA answers, and what the client is told. None: 403, whatever the reason."""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose name leaves room for that of a unix socket."""
    with TemporaryDirectory(prefix="ost-", dir="/tmp") as directory:
        yield Path(directory)


def build(opa: Path, place: Path, permissions: str, *, sequence: int) -> Path:
    """The bundle of a map."""
    policy = place / "policy"
    policy.mkdir(exist_ok=True)
    (policy / "permissions.yaml").write_text(permissions)
    target = place / f"bundle-{sequence}"
    return build_bundle(policy, target, opa=opa, sequence=sequence, rego_root=assets.rego()).path


@asynccontextmanager
async def running_opa(opa: Path, bundle: Path, socket: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(socket)  # noqa: PTH108 - a moment's work, wherever it is done
    process = await asyncio.create_subprocess_exec(
        opa, "run", "--server", "--skip-version-check", "--log-level=error", "--ignore=*_test.rego",
        "--addr", f"unix://{socket}", "--bundle", bundle,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def between(opa_binary: Path, place: Path) -> AsyncIterator[tuple[RunningProxy, Between, RawUpstream]]:
    """A proxy that keeps no decision, and asks an OPA through something that can spoil its answers."""
    bundle = build(opa_binary, place, PERMISSIONS, sequence=7)
    middle = Between(place / "opa.sock")
    async with (
        running_opa(opa_binary, bundle, place / "opa.sock"),
        middle.listening(place / "between.sock") as address,
        RawUpstream(replies(response())).running() as upstream,
    ):
        await eventually((place / "opa.sock").exists)
        async with changed_proxy(
            upstreams={"orders": upstream.port},
            changes={"{managed: {bundle: bundle}}": f'{{url: "{address}", deadline: {DEADLINE}s}}'},
            config_extra="limits: {cached_decisions: 0}\n",
        ) as proxy:
            yield proxy, middle, upstream


async def test_an_opa_that_answers_wrongly(opa_binary: Path, place: Path) -> None:
    """One after the other, and after each the right answer counts again. Requests that come together share a fate."""
    async with between(opa_binary, place) as (proxy, middle, upstream):
        assert await asyncio.to_thread(asked, proxy) == (200, [])
        got, expected = {}, {}
        for name, (spoil, answer) in SPOILT.items():
            forwarded, middle.spoil = len(upstream.requests), spoil
            answers = await asyncio.gather(*(asyncio.to_thread(asked, proxy) for _ in range(3)))
            middle.spoil = None
            assert len(upstream.requests) == forwarded, name
            if answer is None:
                answers = [(status, []) for status, _ in answers]
            got[name], expected[name] = answers, [answer or (403, [])] * 3
            await eventually(lambda: status_of(proxy) == 200)
        assert got == expected
        assert (await asyncio.to_thread(proxy.health))[0] == 200
        kinds = [line["kind"] for line in proxy.audit_lines()]
        assert kinds.count("refusal") >= 3 * len(SPOILT)
        assert kinds.count("decision") == len(upstream.requests)


async def test_an_opa_that_is_slow_within_the_deadline_is_only_slow(opa_binary: Path, place: Path) -> None:
    async with between(opa_binary, place) as (proxy, middle, _):
        middle.spoil = late(0.05)
        answers = await asyncio.gather(*(asyncio.to_thread(asked, proxy) for _ in range(8)))
        assert {status for status, _ in answers} <= {200, 503}  # a busy machine may make it too slow
        assert (200, []) in answers


async def test_an_opa_that_comes_back_with_another_bundle(opa_binary: Path, place: Path) -> None:
    """The new one decides, though allows of the one before were kept a moment ago. An older one allows nothing."""
    first = build(opa_binary, place, PERMISSIONS, sequence=2)
    second = build(opa_binary, place, WITHOUT_ORDER_42, sequence=3)
    older = build(opa_binary, place, PERMISSIONS, sequence=1)
    socket = place / "opa.sock"
    async with RawUpstream(replies(response())).running() as upstream:
        async with running_opa(opa_binary, first, socket):
            await eventually(socket.exists)
            starting = changed_proxy(
                upstreams={"orders": upstream.port},
                changes={"{managed: {bundle: bundle}}": f'{{url: "unix://{socket}"}}'},
            )
            proxy = await starting.__aenter__()
            for _ in range(5):
                assert await asyncio.to_thread(asked, proxy) == (200, [])
        async with running_opa(opa_binary, second, socket):
            # The first answer of the new bundle ends what was kept of the old one: here, one about other claims.
            await eventually(lambda: status_of(proxy, tenant="other") == 403)
            assert await asyncio.to_thread(asked, proxy) == (403, ["permission-missing"])
            assert await asyncio.to_thread(asked, proxy, "/orders") == (200, [])
            await eventually(lambda: (proxy.health()[1]["revision"] or "").startswith("3-"))
        forwarded = len(upstream.requests)
        async with running_opa(opa_binary, older, socket):
            await eventually(lambda: "the bundle 1-" in (proxy.health()[1].get("refused") or ""))
            for tenant in "abc":
                assert await asyncio.to_thread(asked, proxy, tenant=tenant) == UNAVAILABLE
            assert len(upstream.requests) == forwarded
        async with running_opa(opa_binary, second, socket):
            await eventually(lambda: status_of(proxy, "/orders", tenant="d") == 200)
        await starting.__aexit__(None, None, None)
