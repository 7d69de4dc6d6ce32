"""An upstream scripted byte by byte, a real listener in front of the forwarder, and a client of raw requests."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from ostiary.errors import AccessError
from ostiary.exchange import Exchange
from ostiary.models import Credential, Identity, Target
from ostiary.problem import Problems
from ostiary.upstream import Forwarder, PoolFacts, UpstreamSettings
from support.shipped import upstream_settings

SECRET = b"swapped-credential-0123456789"

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def credential(number: int = 0, *, per_call: bool = False, **fields: Any) -> Credential:
    """The credential of the n-th swap."""
    header = (b"authorization", b"Bearer " + SECRET + b"-%d" % number)
    return Credential(**{"header": header, "id": f"jti-{number}", "expires_at": 2**40, "per_call": per_call, **fields})


def identity(exchange: Exchange) -> Identity:
    named = exchange.header(b"subject")
    subject = exchange.id if named is None else named.decode()
    return Identity(issuer="https://idp.test", subject=subject, method="jwt", expires_at=2**40)


async def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds; `TimeoutError` if it does not within five seconds."""
    async with asyncio.timeout(5):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


@dataclass
class Seen:
    """A request as the upstream read it. `connection` numbers the connections from 1."""

    line: str
    headers: list[tuple[str, str]]
    connection: int
    body: bytes = b""

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


class UpstreamConnection:
    """What a script is given: the two streams, and the reading of a request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader = reader
        self.writer = writer
        self.number = number

    async def head(self) -> Seen:
        """Raises `IncompleteReadError` when the proxy closes the connection instead."""
        raw = await self.reader.readuntil(b"\r\n\r\n")
        line, *fields = raw[:-4].decode("latin-1").split("\r\n")
        pairs = [field.split(": ", 1) for field in fields]
        return Seen(line, [(name, value) for name, value in pairs], self.number)

    async def body(self, seen: Seen, *, keep: bool = True) -> int:
        """Read the body that the head announces; its size."""
        size = 0
        async for piece in self.pieces(seen):
            size += len(piece)
            if keep:
                seen.body += piece
        return size

    async def pieces(self, seen: Seen) -> AsyncIterator[bytes]:
        if seen.values("transfer-encoding") == ["chunked"]:
            while (length := int(await self.reader.readuntil(b"\r\n"), 16)) > 0:
                yield await self.reader.readexactly(length)
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
            return
        left = int((seen.values("content-length") or ["0"])[0])
        while left:
            piece = await self.reader.read(min(left, 65536))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            yield piece

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def closed(self) -> None:
        """Return once the proxy has ended the connection, however it did."""
        with contextlib.suppress(OSError):
            while await self.reader.read(65536):
                pass


Script = Callable[[UpstreamConnection, Seen], Awaitable[None]]


@dataclass
class RawUpstream:
    """Runs `script` for every request. A script that returns keeps the connection open for the next one."""

    script: Script
    host: str = "127.0.0.1"
    tls: Any = None
    port: int = 0
    connections: int = 0
    requests: list[Seen] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[RawUpstream]:
        server = await asyncio.start_server(self._accept, self.host, self.port, ssl=self.tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in list(self.tasks):
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        self.connections += 1
        connection = UpstreamConnection(reader, writer, self.connections)
        try:
            while not writer.is_closing():
                seen = await connection.head()
                self.requests.append(seen)
                await self.script(connection, seen)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            pass
        finally:
            writer.transport.abort()


def answers(*responses: bytes, close: bool = False) -> Script:
    """Reads each request whole and answers with the next of these, the last one for ever."""
    script = list(responses)

    async def answer(connection: UpstreamConnection, seen: Seen) -> None:
        await connection.body(seen)
        await connection.send(script.pop(0) if len(script) > 1 else script[0])
        if close:
            connection.writer.close()

    return answer


@dataclass
class Answer:
    """A response as a client read it, without the decision's id. `complete`: it ended as its framing says."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    complete: bool

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


def parse(raw: bytes, *, head_only: bool = False) -> Answer:
    """What a connection that was read to its end brought; 100 Continue is skipped."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100"):
        head, _, rest = rest.partition(b"\r\n\r\n")
    if not head:
        return Answer(0, [], b"", complete=False)
    line, *fields = head.decode("latin-1").split("\r\n")
    headers = [(name, value) for name, _, value in (field.partition(": ") for field in fields)]
    headers = [header for header in headers if header[0] != "ostiary-decision-id"]
    status = int(line.split(" ")[1])
    given = dict(headers)
    if head_only or status in (204, 304):
        return Answer(status, headers, rest, complete=not rest)
    if given.get("transfer-encoding") == "chunked":
        body, complete = _unchunked(rest)
        return Answer(status, headers, body, complete=complete)
    return Answer(status, headers, rest, complete=len(rest) == int(given["content-length"]))


def _unchunked(rest: bytes) -> tuple[bytes, bool]:
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        if size == b"0":
            return body, rest == b"\r\n"
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return body, False


@dataclass
class Front:
    """The forwarder behind a real listener. What it refused is in `refusals`, in order."""

    forwarder: Forwarder
    port: int
    exchanges: list[Exchange]
    refusals: list[AccessError]
    swaps: list[Credential]

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def raw(self, request: bytes) -> bytes:
        """Send these bytes, and read until the proxy closes."""
        reader, writer = await self.open()
        try:
            writer.write(request)
            return await reader.read(-1)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def call(
        self, method: str = "GET", path: str = "/orders/1", *, headers: str = "", body: bytes | None = None
    ) -> Answer:
        """One request on a connection of its own. `headers` are whole lines, each with its line end."""
        if body is not None:
            headers += f"Content-Length: {len(body)}\r\n"
        if "connection:" not in headers.lower():
            headers += "Connection: close\r\n"
        request = f"{method} {path} HTTP/1.1\r\nHost: orders.test\r\n{headers}\r\n".encode("latin-1") + (body or b"")
        return parse(await self.raw(request), head_only=method == "HEAD")

    async def settled(self, *, idle: int = 0) -> None:
        """Return once no connection is in use, and `idle` ones are kept."""
        expected = PoolFacts(open=idle, idle=idle, waiting=0)
        await until(lambda: self.forwarder.facts()["orders"] == expected)


@contextlib.asynccontextmanager
async def fronted(
    settings: UpstreamSettings,
    *,
    swap: Callable[[int], Credential] = credential,
    decorations: tuple[tuple[bytes, bytes], ...] = (),
    drain_timeout: float = 0.1,
) -> AsyncIterator[Front]:
    """A listener whose every request is forwarded to the service `orders`. `swap` makes the n-th credential.

    Each request has an identity of its own, unless a header `Subject` says whose it is.
    """
    loop = asyncio.get_running_loop()
    forwarder = Forwarder({"orders": settings}, drain_timeout=drain_timeout)
    await forwarder.start()
    front = Front(forwarder, 0, [], [], [])
    problems = Problems()

    async def renew() -> Credential:
        front.swaps.append(swap(len(front.swaps)))
        return front.swaps[-1]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        exchange = Exchange(scope, receive, send)
        exchange.decorations.extend(decorations)
        front.exchanges.append(exchange)
        query = exchange.raw_query.decode("latin-1")
        path = exchange.raw_path.decode("latin-1")
        target = Target(service="orders", segments=(), path=path, query=query or None, pairs=())
        try:
            await forwarder.forward(exchange, target, identity(exchange), await renew(), renew)
        except AccessError as refusal:
            front.refusals.append(refusal)
            await problems.answer(exchange, refusal)

    config = uvicorn.Config(
        app, http=HttpToolsProtocol, ws="none", lifespan="off", log_config=None, access_log=False,
        proxy_headers=False, server_header=False, date_header=False, log_level="critical",
    )  # fmt: skip
    config.load()
    state = ServerState()
    server = await loop.create_server(
        lambda: HttpToolsProtocol(config=config, server_state=state, app_state={}, _loop=loop), "127.0.0.1", 0
    )
    front.port = server.sockets[0].getsockname()[1]
    try:
        yield front
    finally:
        server.close()
        await forwarder.close()
        for connection in list(state.connections):
            connection.transport.abort()
        for _ in range(3):
            await asyncio.sleep(0)
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=5)


@contextlib.asynccontextmanager
async def forwarding(
    script: Script, *, swap: Callable[[int], Credential] = credential, **settings: Any
) -> AsyncIterator[tuple[Front, RawUpstream]]:
    """A front before a scripted upstream; `settings` are those of `UpstreamSettings`."""
    async with RawUpstream(script).running() as upstream:
        configured = upstream_settings(**{"host": "127.0.0.1", "port": upstream.port, **settings})
        async with fronted(configured, swap=swap) as front:
            yield front, upstream


class Authority:
    """A certificate authority for one test."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = self._sign(self._name, self._key, authority=True, names=[])
        self.ca_file = folder / f"{name}.pem"
        self.ca_file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, *names: str) -> tuple[Path, Path]:
        """Certificate and key files for these DNS names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        certificate = self._sign(subject, key, authority=False, names=list(names))
        files = self._folder / f"{names[0]}.pem", self._folder / f"{names[0]}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files

    def _sign(self, subject: x509.Name, key: Any, *, authority: bool, names: list[str]) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if authority:
            usage = x509.KeyUsage(
                digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
                key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
            )  # fmt: skip
            builder = builder.add_extension(usage, critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), False)
        return builder.sign(self._key, hashes.SHA256())


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
