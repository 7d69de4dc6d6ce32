"""Clients that take their time: every one is cut off by a deadline, and others are served meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from attacks.runner import amounts
from attacks.runner.corpus import Case, Spec, Unintelligible, filled
from attacks.runner.fixture import HOST
from attacks.runner.labs import Findings, Lab
from attacks.runner.plans import Attempt, Plan, tagged, whole
from attacks.runner.service import Received, answer
from attacks.runner.verdicts import judged
from attacks.runner.wire import Conversation, Garbled, connected

_CUT_OFF: Final = 15.0
"""Seconds within which a deadline of one second has certainly passed, on a machine that is busy."""


def slow_client(case: Case, spec: Spec) -> Plan:
    """`part` says what is slow: the headers, the body, a chunk, the reading of the answer, or what is never sent."""
    part = str(spec.take("part", default="headers")).lower()
    interval = float(spec.take("interval_s", "interval", default=1))
    request = spec.take("request", default="GET /orders/123")
    length = spec.take("content_length", "length")
    count = int(spec.take("connections", "count", default=1))
    size, rate = spec.take("bytes", "chunk"), spec.take("rate", "bytes_per_s", "bytes_per_second")
    if rate is not None:
        interval = float(size or 1) / float(rate)
    spec.take("duration_s", "duration", "total_s")  # it goes on until it is cut off
    spec.take("window", "receive_window")  # nothing is read at all
    make = _part(part)
    raw = whole(request)
    if make is _reading:
        return Plan(case=case, attempt=_reader(case, raw), lab="dos", slow=True, service=True)

    async def attempt(lab: Lab) -> Findings:
        found = await asyncio.gather(*(one(lab) for _ in range(count)))
        return [wrong for wrongs in found for wrong in wrongs] + await lab.served()

    async def one(lab: Lab) -> Findings:
        message, tag = tagged(filled(raw.replace(HOST.encode(), lab.host.encode()), TOKEN=lab.forge.token()))
        conversation = Conversation()
        mark = lab.mark()
        began = time.monotonic()
        async with connected(lab.address) as client:
            sending = asyncio.create_task(_send(client.send, make(message, int(length or 1_000_000)), interval))
            try:
                async with asyncio.timeout(_CUT_OFF):
                    while (found := await client.answer()) is not None:
                        if found.status >= 200 and not (make is _kept_alive and found.status == 200):
                            conversation.answers.append(found)
                        if found.closes:
                            break
                conversation.ended = await client.ended(_CUT_OFF)
            except Garbled as error:
                conversation.garbage = str(error)
                conversation.ended = True
            except TimeoutError:
                conversation.garbage = f"it was not cut off within {_CUT_OFF:g} s"
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        conversation.seconds = time.monotonic() - began
        evidence = await lab.evidence(mark, conversation, message)
        # Others are tried at the same time, and the service may have seen the beginning of this one: what counts is
        # that it saw nothing whole.
        evidence.received = [
            seen for seen in evidence.received or () if tag in seen.target and seen.whole and make is not _kept_alive
        ]
        return judged(case.expected, evidence)

    return Plan(case=case, attempt=attempt, lab="dos", slow=True, wire=True)


Sent = Callable[[bytes, int], AsyncIterator[bytes]]


def _part(told: str) -> Sent:
    words = re.sub(r"[^a-z]+", " ", told).strip()
    for pattern, make in _PARTS.items():
        if re.search(pattern, words):
            return make
    raise Unintelligible(f"{told!r} is no part of a request that this runner can send slowly")


async def _send(send: Callable[[bytes], Awaitable[None]], pieces: AsyncIterator[bytes], interval: float) -> None:
    async for piece in pieces:
        await send(piece)
        await asyncio.sleep(interval if len(piece) <= 8 else 0)


async def _nothing(message: bytes, length: int) -> AsyncIterator[bytes]:
    return
    yield b""


async def _trickled(message: bytes, length: int) -> AsyncIterator[bytes]:
    for byte in message:
        yield bytes([byte])


async def _headers(message: bytes, length: int) -> AsyncIterator[bytes]:
    head = message.partition(b"\r\n\r\n")[0]
    yield head + b"\r\n"
    number = 0
    while True:
        number += 1
        yield b"X: %d\r\n" % (number % 10)


async def _body(message: bytes, length: int) -> AsyncIterator[bytes]:
    head = message.partition(b"\r\n\r\n")[0]
    yield head + b"\r\nContent-Length: %d\r\n\r\n" % length
    for _ in range(length):
        yield b"a"


async def _chunks(message: bytes, length: int) -> AsyncIterator[bytes]:
    head = message.partition(b"\r\n\r\n")[0]
    yield head + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    while True:
        yield b"1\r\na\r\n"


async def _kept_alive(message: bytes, length: int) -> AsyncIterator[bytes]:
    yield message


def _reading(message: bytes, length: int) -> AsyncIterator[bytes]:
    raise NotImplementedError


_PARTS: Final[dict[str, Sent]] = {
    r"read|response|receive|download": _reading,
    r"keep ?alive|idle": _kept_alive,
    r"nothing|none|first|connect|silent|no bytes": _nothing,
    r"request line|line|method|target|url|path": _trickled,
    r"chunk|trailer": _chunks,
    r"body|upload": _body,
    r"head": _headers,
}


def _reader(case: Case, raw: bytes) -> Attempt:
    """A client that asks for much and reads nothing of it."""

    async def attempt(lab: Lab) -> Findings:
        content = await asyncio.to_thread(amounts.filler(b"a", 64 << 20).whole)
        sent = asyncio.Event()
        ended = asyncio.Event()

        message, mine = tagged(filled(raw.replace(HOST.encode(), lab.host.encode()), TOKEN=lab.forge.token()))

        async def reply(received: Received, writer: asyncio.StreamWriter) -> bool:
            if mine not in received.target:
                writer.write(answer(received))
                return True
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content))
            sent.set()
            with contextlib.suppress(ConnectionError):
                for start in range(0, len(content), 1 << 16):
                    writer.write(content[start : start + (1 << 16)])
                    await writer.drain()
                return True
            ended.set()
            return False

        assert lab.service is not None
        lab.service.reply = reply
        try:
            _, writer = await asyncio.open_connection(*lab.address, limit=1024)
            writer.write(message)
            found: Findings = []
            try:
                async with asyncio.timeout(_CUT_OFF):
                    await sent.wait()
                    await ended.wait()
            except TimeoutError:
                found.append("a client that reads nothing was not cut off")
            writer.transport.abort()
        finally:
            lab.service.reply = None
        return found + await lab.served()

    return attempt
