"""A little issuer for tests: keys, tokens that are right or wrong in any way, and where its keys are served."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

from ostiary.clock import Clock
from ostiary.exchange import Exchange
from ostiary.identity import IssuerSettings, KeyFile
from ostiary.identity.settings import KeyOrigin
from ostiary.peer import PEER_CERTIFICATE, PeerCertificate

ISSUER = "https://idp.test"
AUDIENCE = "proxy"
ABSENT: Any = object()
"""As an override: leave this member out."""

_ALGORITHMS = get_default_algorithms()


def b64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


@functools.cache
def private_key(algorithm: str, name: str) -> Any:
    """One key per algorithm and name for the whole test run: RSA keys take time to make."""
    if algorithm[:2] in {"RS", "PS"}:
        return rsa.generate_private_key(public_exponent=65537, key_size=int(name) if name.isdigit() else 2048)
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key({"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}[algorithm]())


@dataclass(frozen=True, kw_only=True)
class SigningKey:
    """A key pair. Two of the same algorithm, with different `material`, are different keys."""

    id: str = "k1"
    algorithm: str = "RS256"
    material: str = "issuer"

    @property
    def private(self) -> Any:
        return private_key(self.algorithm, self.material)

    def jwk(self, **overrides: Any) -> dict[str, Any]:
        """The public half as it is published."""
        jwk = json.loads(_ALGORITHMS[self.algorithm].to_jwk(self.private.public_key()))
        jwk.pop("key_ops", None)
        return merged({**jwk, "kid": self.id, "alg": self.algorithm, "use": "sig"}, overrides)

    def pem(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, signing_input: bytes, algorithm: str | None = None) -> bytes:
        return _ALGORITHMS[algorithm or self.algorithm].sign(signing_input, self.private)


def merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**base, **overrides}.items() if value is not ABSENT}


def jwks(*keys: SigningKey | dict[str, Any]) -> bytes:
    return json.dumps({"keys": [key.jwk() if isinstance(key, SigningKey) else key for key in keys]}).encode()


@dataclass(kw_only=True)
class Issuer:
    """Makes tokens. Each override replaces a member, or leaves it out with `ABSENT`."""

    clock: Clock
    issuer: str = ISSUER
    key: SigningKey = field(default_factory=SigningKey)

    def claims(self, **overrides: Any) -> dict[str, Any]:
        now = int(self.clock.now())
        base = {"iss": self.issuer, "aud": AUDIENCE, "sub": "web", "iat": now, "exp": now + 300, "jti": "t-1"}
        return merged(base, overrides)

    def header(self, **overrides: Any) -> dict[str, Any]:
        return merged({"alg": self.key.algorithm, "kid": self.key.id, "typ": "JWT"}, overrides)

    def token(
        self,
        *,
        header: Mapping[str, Any] | bytes | None = None,
        claims: Mapping[str, Any] | bytes | None = None,
        sign: Callable[[bytes], bytes] | None = None,
    ) -> str:
        """A token; bytes as header or claims are taken as they are, `sign` makes the signature."""
        head = header if isinstance(header, bytes) else json.dumps(self.header(**(header or {}))).encode()
        body = claims if isinstance(claims, bytes) else json.dumps(self.claims(**(claims or {}))).encode()
        signing_input = f"{b64(head)}.{b64(body)}"
        return f"{signing_input}.{b64((sign or self.key.sign)(signing_input.encode()))}"


def settings(keys: KeyOrigin, **overrides: Any) -> IssuerSettings:
    base: dict[str, Any] = {
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "algorithms": ("RS256",),
        "keys": keys,
        "leeway": 10,
        "claims": ("groups", "tenant"),
    }
    return IssuerSettings(**{**base, **overrides})


def key_file(directory: Path, document: bytes) -> KeyFile:
    path = directory / "keys"
    path.write_bytes(document)
    return KeyFile(path=path)


async def _receive() -> dict[str, Any]:
    return {"type": "http.disconnect"}


async def _send(message: Any) -> None:
    raise RuntimeError("authentication answers nothing itself")


def exchange(
    *headers: tuple[bytes, bytes],
    query: bytes = b"",
    method: str = "GET",
    path: bytes = b"/orders/123",
    scheme: str = "http",
    peer: PeerCertificate | None = None,
) -> Exchange:
    scope = {
        "type": "http",
        "method": method,
        "raw_path": path,
        "query_string": query,
        "headers": list(headers),
        "client": ("127.0.0.1", 40000),
        "scheme": scheme,
        "extensions": {} if peer is None else {PEER_CERTIFICATE: peer},
    }
    return Exchange(scope, _receive, _send)


def bearing(token: str | bytes) -> Exchange:
    value = token.encode() if isinstance(token, str) else token
    return exchange((b"host", b"proxy.test"), (b"authorization", b"Bearer " + value))


Responder = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


@dataclass(kw_only=True)
class RawServer:
    """A TCP server whose every byte the test decides. Counts connections, and keeps what it was sent."""

    port: int = 0
    connections: int = 0
    received: bytearray = field(default_factory=bytearray)


@asynccontextmanager
async def raw_server(respond: Responder, *, host: str = "127.0.0.1") -> AsyncIterator[RawServer]:
    """`respond` is called with each connection once the request head is in (or the client is gone)."""
    state = RawServer()
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections += 1
        task = asyncio.current_task()
        if task is not None:
            tasks.add(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                state.received += await reader.readuntil(b"\r\n\r\n")
                await respond(reader, writer)
                await writer.drain()
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, host, 0)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def answer(body: bytes, *, status: str = "200 OK", headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n%s\r\n%s" % (status.encode(), len(body), headers, body)


class KeyServer:
    """What an issuer's address answers, changeable between requests; counts what it is asked."""

    def __init__(self, document: bytes) -> None:
        self.document = document
        self.raw: bytes | None = None
        self.delay = 0.0
        self.requests = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests += 1
        response = self.raw if self.raw is not None else answer(self.document)
        if self.delay:
            await asyncio.sleep(self.delay)
        writer.write(response)
