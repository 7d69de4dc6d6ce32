"""Fetching a small document, such as an issuer's keys or the statement of a rollback: httpx, with everything taken
away that was abused elsewhere.

No redirects (they carried credentials to the metadata service: kube CVE-2018-1002102), no proxy or CA settings from
the environment, no cookies (httpx would send one caller's for the next), no content coding (48 kB became 50 MB), one
deadline for the whole attempt, a size limit on the wire, and a look at the address that was really connected to
before a byte is written to it (a second name look-up may say something else than the first: kube GHSA-qh36-44jv-c8xj).
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Final

import httpcore
import httpx

from ostiary.addresses import REFUSED, Refused, is_loopback, refusal, unmapped
from ostiary.identity.keys import MAX_DOCUMENT_BYTES, KeySourceError, NoSuchDocument
from ostiary.identity.settings import check_url

_STEP: Final = 60.0  # seconds for one step of an exchange; the deadline of the whole is the caller's
_KEYS: Final = "application/jwk-set+json, application/json"
_HEADERS: Final = {"accept-encoding": "identity", "user-agent": "ostiary"}
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # token68, RFC 9110 section 11.2
_MAX_TOKEN_FILE_BYTES: Final = 16 * 1024


class AddressRefused(httpcore.ConnectError):
    """The address connected to is one that is never fetched from."""


class DocumentFetcher:
    """GETs documents from one place. `accept` is the media types that are asked for. CA file and token file are read
    again each time, since both are rotated."""

    def __init__(
        self,
        *,
        accept: str = _KEYS,
        ca_file: Path | None = None,
        token_file: Path | None = None,
        refused: Refused = REFUSED,
    ) -> None:
        self._headers = _HEADERS | {"accept": accept}
        self._ca_file = ca_file
        self._token_file = token_file
        self._refused = refused

    async def get(self, url: str) -> bytes:
        """The body of a 200. Raises `KeySourceError`, for a 404 `NoSuchDocument`; the caller sets the deadline."""
        try:
            scheme = check_url(url).scheme
        except ValueError as error:
            raise KeySourceError("url-refused", str(error)) from None
        # Reading the authorities takes milliseconds, and off the event loop; plain http has no use for them.
        context = await asyncio.to_thread(self._tls) if scheme == "https" else None
        headers = self._headers | await asyncio.to_thread(self._authorization)
        transport = GuardedTransport(tls=context, refused=self._refused, loopback_only=scheme == "http")
        try:
            async with (
                httpx.AsyncClient(
                    transport=transport, trust_env=False, follow_redirects=False, timeout=_STEP, headers=headers
                ) as client,
                client.stream("GET", url) as response,
            ):
                return await _body(response)
        except AddressRefused:
            raise KeySourceError("address-refused", "the address connected to is never fetched from") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, *CONNECTION_ERRORS, OSError) as error:
            # The library's text may quote what came over the wire; its kind is enough.
            raise KeySourceError("unreachable", f"the request failed: {type(error).__name__}") from None

    def _tls(self) -> ssl.SSLContext:
        if self._ca_file is None:
            return httpx.create_ssl_context(trust_env=False)
        try:
            return ssl.create_default_context(cafile=self._ca_file)
        except (OSError, ssl.SSLError):
            raise KeySourceError("ca-file", f"the CA file {self._ca_file} cannot be used") from None

    def _authorization(self) -> dict[str, str]:
        return {} if self._token_file is None else {"authorization": f"Bearer {read_token(self._token_file)}"}


def read_token(path: Path) -> str:
    """The bearer token in a file. Blocks; raises `KeySourceError`."""
    try:
        with path.open("rb") as file:
            token = file.read(_MAX_TOKEN_FILE_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise KeySourceError("token-file", f"the token file {path} cannot be read") from None
    if _TOKEN.fullmatch(token) is None:
        raise KeySourceError("token-file", f"the token file {path} holds no bearer token")
    return token


async def _body(response: httpx.Response) -> bytes:
    if response.is_redirect:
        raise KeySourceError("redirect", f"redirected with {response.status_code}")
    if response.status_code != 200:
        refused = NoSuchDocument if response.status_code == 404 else KeySourceError
        raise refused("status", f"answered {response.status_code}")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise KeySourceError("content-coding", "answered with a content coding that was not asked for")
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > MAX_DOCUMENT_BYTES:
            raise KeySourceError("oversized", f"answered with more than {MAX_DOCUMENT_BYTES} bytes")
    return bytes(body)


class GuardedTransport(httpx.AsyncBaseTransport):
    """httpx over an httpcore pool whose connections are checked; HTTP/1.1, nothing kept alive between documents."""

    def __init__(self, *, tls: ssl.SSLContext | None, refused: Refused, loopback_only: bool) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=1,
            max_keepalive_connections=0,
            network_backend=GuardedBackend(refused=refused, loopback_only=loopback_only),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(response),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._response.aiter_stream():
            yield piece

    async def aclose(self) -> None:
        await self._response.aclose()


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects, then asks the socket where it is. With `loopback_only`, a name that leads elsewhere is refused."""

    def __init__(self, *, refused: Refused, loopback_only: bool) -> None:
        self._backend = httpcore.AnyIOBackend()
        self._refused = refused
        self._loopback_only = loopback_only

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        stream = await self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        peer = stream.get_extra_info("server_addr")
        if not self.allows(peer):
            await stream.aclose()
            raise AddressRefused
        return stream

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise AddressRefused  # nothing here has an address on a unix socket

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)

    def allows(self, peer: object) -> bool:
        """Whether this peer (a socket address) may be spoken to."""
        if not isinstance(peer, tuple) or not peer:
            return False
        address = str(peer[0])
        if refusal(address, refused=self._refused) is not None:
            return False
        return not self._loopback_only or is_loopback(unmapped(address))


CONNECTION_ERRORS: Final = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
    httpcore.ConnectionNotAvailable,
)
