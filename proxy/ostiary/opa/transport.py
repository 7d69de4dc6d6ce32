"""opa-python-client's asynchronous client, fit for a proxy: unix sockets, no retries, capped answers."""

from __future__ import annotations

import errno
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
from opa_client.opa_async import AsyncOpaClient
from yarl import URL

from ostiary.errors import ConfigurationError
from ostiary.opa.address import OpaAddress

_HEADERS: Final = {
    "Content-Type": "application/json",
    "Accept-Encoding": "identity",  # nothing is inflated here, so nothing can be inflated without bound
}
_KEEPALIVE: Final = 30.0


class AnswerTooLarge(ValueError):
    """The answer is longer than it may be."""


class OpaUnreachable(ConnectionError):
    """There is no connection to OPA. The message is a clause: where it should be, and what is wrong there."""


@dataclass(slots=True, eq=False)
class _Lease:
    """A session with the requests that use it. A retired one is closed by the last of them."""

    session: aiohttp.ClientSession
    users: int = 0
    retired: bool = False


def trusting(ca_file: Path | None) -> ssl.SSLContext:
    """For a client that trusts these authorities (PEM) and no others, or the system's. Raises `ConfigurationError`."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigurationError([f"{ca_file}: the ca_file of OPA cannot be used: {error}"]) from error


class OpaTransport(AsyncOpaClient):  # type: ignore[misc]  # the library ships no types
    """One HTTP exchange with OPA at a time per connection, over at most `connections` kept-alive ones.

    Never retries: a POST that failed is not sent again. Follows no redirect, keeps no cookie, obeys no proxy variable.
    Its errors are aiohttp's, `OSError` and `ValueError`; there is no deadline here. `OpaClient` adds both.

    A unix socket is looked at before every request (one `stat`): when another one stands in its place (OPA was
    restarted, or a new one with a new bundle took over), connections to the old one are used no longer.
    """

    def __init__(self, *, address: OpaAddress, token: str | None, ca_file: Path | None, connections: int) -> None:
        super().__init__(host=address.host, port=address.port, ssl=address.tls, token=token, retries=0)
        self._tls: ssl.SSLContext | bool = trusting(ca_file) if address.tls else True
        self._address = address
        self._connections = connections
        self._lease: _Lease | None = None
        self._socket_seen: tuple[int, int, int] | None = None
        self._urls: dict[str, URL] = {}
        self._base = self.root_url.removesuffix(f"/{self.version}")

    async def _init_session(self) -> None:
        self._connector = self._new_connector()
        self._session = aiohttp.ClientSession(
            headers={**_HEADERS, **(self.headers or {})},
            connector=self._connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            auto_decompress=False,
            trust_env=False,
        )
        self._lease = _Lease(self._session)

    def _new_connector(self) -> aiohttp.BaseConnector:
        if self._address.socket is not None:
            return aiohttp.UnixConnector(
                path=str(self._address.socket), limit=self._connections, keepalive_timeout=_KEEPALIVE
            )
        return aiohttp.TCPConnector(ssl=self._tls, limit=self._connections, keepalive_timeout=_KEEPALIVE)

    async def exchange(self, method: str, path: str, *, body: bytes | None, limit: int) -> tuple[int, bytes]:
        """Send one request to a constant `path` with its query; status and body of the answer.

        Raises `AnswerTooLarge` once the answer exceeds `limit` bytes, without reading on, and `OpaUnreachable`.
        """
        lease = await self._leased()
        lease.users += 1
        try:
            async with self._request(method, self._url(path), data=body, allow_redirects=False) as response:
                return response.status, await _read(response, limit)
        except aiohttp.ClientConnectorError as error:
            raise OpaUnreachable(_unreachable(self._address, error)) from error
        finally:
            lease.users -= 1
            if lease.retired and lease.users == 0:
                await lease.session.close()

    def _url(self, path: str) -> URL:
        """Parsed once: the paths are a handful of constants."""
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = URL(self._base + path)
        return url

    async def close_connection(self) -> None:
        self._lease = None
        await super().close_connection()

    async def _leased(self) -> _Lease:
        lease = self._lease
        if lease is None:
            raise ConnectionError("the client is not open")
        if self._address.socket is None:
            return lease
        seen = _identity(self._address.socket)
        if seen == self._socket_seen or seen is None:
            return lease
        first, self._socket_seen = self._socket_seen is None, seen
        if first:
            return lease
        await self._init_session()
        lease.retired = True
        if lease.users == 0:
            await lease.session.close()
        return await self._leased()


def _identity(socket: Path) -> tuple[int, int, int] | None:
    """What tells this socket from the one that stood here before: inodes are used again, with another change time."""
    try:
        found = os.stat(socket)  # noqa: PTH116  # once for every decision, and half the cost
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _unreachable(address: OpaAddress, error: aiohttp.ClientConnectorError) -> str:
    if error.errno == errno.ECONNREFUSED:
        return f"nobody listens at {address}"
    if address.socket is not None and error.errno == errno.ENOENT:
        return f"there is no socket {address.socket}"
    return f"no connection to {address}: {error.strerror or error}"


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > limit:
            raise AnswerTooLarge(f"the answer is longer than {limit} bytes")
    return bytes(body)
