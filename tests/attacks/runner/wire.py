"""A client of exact bytes, and answers read to the letter."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

PATIENCE: Final = 20.0
"""Seconds after which an answer is not waited for any longer. None is ever late on purpose by so much."""

_METHOD: Final = re.compile(rb"(?:^|\n)([A-Za-z-]+) [^\r\n]* HTTP/")
_LINE: Final = 128 << 10
"""Bytes of a line that is looked at for a method."""


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""
    bodiless: bool = False
    """It answers a HEAD."""

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    @property
    def closes(self) -> bool:
        return "close" in self.values("connection")

    @property
    def problem(self) -> dict[str, Any] | None:
        """The problem document of a refusal."""
        if self.values("content-type") != ["application/problem+json"]:
            return None
        with contextlib.suppress(ValueError):
            document = json.loads(self.body)
            return document if isinstance(document, dict) else None
        return None

    @property
    def decision_id(self) -> str | None:
        """Of the proxy's own header, or of the problem document where there is none."""
        found = self.values("ostiary-decision-id")
        if found:
            return found[0]
        return (self.problem or {}).get("decision_id")


@dataclass
class Conversation:
    """What came back on one connection. `ended`: the proxy closed it; `garbage`: what was no clean answer."""

    answers: list[Answer] = field(default_factory=list)
    ended: bool = False
    garbage: str = ""
    seconds: float = 0.0
    """Until the end, or the last answer."""

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]


class Garbled(Exception):
    """What was read is no clean HTTP/1.1 response."""


class Client:
    """`patience` is how many seconds an answer is waited for."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, patience: float = PATIENCE
    ) -> None:
        self.reader = reader
        self.writer = writer
        self._patience = patience
        self._asked: deque[bytes] = deque()
        """The methods that no final answer came for."""
        self._line = b""
        """What was sent of a line whose end was not."""

    async def send(self, data: bytes) -> None:
        """Send; what the proxy no longer takes is not sent."""
        lines, _, rest = (self._line + data).rpartition(b"\n")
        self._asked.extend(_METHOD.findall(lines))
        self._line = rest[:_LINE]
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def answer(self) -> Answer | None:
        """The next answer; None at the end. Raises `Garbled`, `TimeoutError`."""
        async with asyncio.timeout(self._patience):
            try:
                raw = await self.reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    raise Garbled(f"the answer ends in its head: {error.partial[:80]!r}") from None
                return None
            except asyncio.LimitOverrunError:
                raise Garbled("the answer's head has no end") from None
            except (ConnectionError, ssl.SSLError):
                return None
            answer = _head(raw)
            if answer.status >= 200 and self._asked:
                answer.bodiless = self._asked.popleft() == b"HEAD"
            if answer.status >= 200 and answer.status not in (204, 304) and not answer.bodiless:
                answer.body = await self._body(answer)
        return answer

    async def _body(self, answer: Answer) -> bytes:
        lengths, codings = answer.values("content-length"), answer.values("transfer-encoding")
        if lengths and codings:
            raise Garbled("the answer has both Content-Length and Transfer-Encoding")
        try:
            if codings == ["chunked"]:
                pieces = []
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    pieces.append(await self.reader.readexactly(size))
                    await self.reader.readexactly(2)
                if await self.reader.readexactly(2) != b"\r\n":
                    raise Garbled("the answer has trailers")
                return b"".join(pieces)
            if len(lengths) != 1 or codings:
                raise Garbled(f"the answer's body has no one framing: {lengths}, {codings}")
            return await self.reader.readexactly(int(lengths[0]))
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            raise Garbled("the answer ends before its body does") from None

    async def ended(self, seconds: float | None = None) -> bool:
        """Whether the proxy ends the connection within so many seconds; what still comes is thrown away."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds or self._patience):
                try:
                    while await self.reader.read(1 << 16):
                        pass
                except ConnectionError:
                    pass
                return True
        return False


@contextlib.asynccontextmanager
async def connected(
    address: tuple[str, int],
    *,
    source: str | None = None,
    patience: float = PATIENCE,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Client]:
    """A connection from `source`, an address of loopback; over TLS where there is a context."""
    local = None if source is None else (source, 0)
    name = None if tls is None else "localhost"
    reader, writer = await asyncio.open_connection(
        *address, local_addr=local, limit=1 << 20, ssl=tls, server_hostname=name
    )
    try:
        yield Client(reader, writer, patience=patience)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def converse(
    address: tuple[str, int],
    pieces: Iterable[bytes],
    *,
    then: bytes,
    until: bytes,
    source: str | None = None,
    patience: float = PATIENCE,
    tls: ssl.SSLContext | None = None,
) -> Conversation:
    """Send the pieces on one connection and read all that is answered.

    Once something was answered, `then` is sent behind it, a good request whose answer's body is `until`: what was left
    of the first in anybody's buffer would show. So no time has to be waited to know that nothing more comes.
    """
    found = Conversation()
    began = time.monotonic()

    async def send(client: Client) -> None:
        for piece in pieces:
            await client.send(piece)
            await asyncio.sleep(0)

    async with connected(address, source=source, patience=patience, tls=tls) as client:
        sending = asyncio.create_task(send(client))
        try:
            await _read(client, found, sending, then, until)
        except Garbled as error:
            found.garbage = str(error)
        except TimeoutError:
            found.garbage = "no answer, and no end"
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    found.seconds = time.monotonic() - began
    return found


async def _read(client: Client, found: Conversation, sending: asyncio.Task[None], then: bytes, until: bytes) -> None:
    asked = False
    while True:
        answer = await client.answer()
        if answer is None:
            found.ended = True
            return
        if asked and answer.body == until:
            return
        found.answers.append(answer)
        if answer.status < 200:
            continue
        if answer.closes:
            found.ended = await client.ended()
            return
        if not asked:
            await sending
            await client.send(then)
            asked = True


def _head(raw: bytes) -> Answer:
    line, *fields = raw[:-4].decode("latin-1").split("\r\n")
    found = re.fullmatch(r"HTTP/1\.1 ([1-5]\d\d)(?: [\x20-\x7e]*)?", line)
    if found is None:
        raise Garbled(f"the answer begins {line[:60]!r}")
    headers = []
    for one in fields:
        name, colon, value = one.partition(":")
        if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise Garbled(f"the answer has the header line {one[:60]!r}")
        if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
            raise Garbled(f"the answer's header {name} has a control character")
        headers.append((name.lower(), value.strip(" \t")))
    return Answer(int(found[1]), headers)
