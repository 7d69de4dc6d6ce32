"""The proxy's keys, fetched from its `/.well-known/jwks.json` and kept."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Final
from urllib.parse import urlsplit

from ostiary.addresses import is_loopback
from ostiary.clock import Clock, SystemClock
from ostiary.verify.keys import KeySet, VerificationKey
from ostiary.verify.refusals import VerificationUnavailable

_log: Final = logging.getLogger("ostiary.verify")
_MAX_DOCUMENT: Final = 65_536


class RemoteKeys:
    """A `KeySource` that fetches a JWKS when it is first needed, again in the background when it is older than
    `refresh_after`, and at once when it is twice as old or a token names a key that is not in it.

    However many requests wait, one fetch is under way, and after it began none begins for `cooldown` seconds (after a
    failure sooner: 1, 2, 4, ... seconds), so that tokens with invented key ids cost the proxy nothing. A fetch that
    fails leaves the last good set, up to `max_age` seconds.

    `url` is `https:`, or `http:` on a loopback address. `host` is sent as the Host header, for a proxy that is
    reached by address (`http://127.0.0.1:8080/.well-known/jwks.json`, host `ostiary.localhost`). `tls` replaces the
    system's trust in certificate authorities. All durations are in seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        host: str | None = None,
        tls: ssl.SSLContext | None = None,
        timeout: float = 5.0,
        refresh_after: float = 300.0,
        max_age: float = 86_400.0,
        cooldown: float = 30.0,
        clock: Clock | None = None,
    ) -> None:
        self._url = url
        self._headers = {"accept": "application/jwk-set+json, application/json", "accept-encoding": "identity"}
        if host is not None:
            self._headers["host"] = host
        # For plain http a context that trusts nobody: it is never used, and loading the authorities takes a while.
        self._tls = tls or (ssl.create_default_context() if _secure(url) else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        self._timeout = timeout
        self._refresh_after = refresh_after
        self._max_age = max_age
        self._cooldown = cooldown
        self._clock = clock or SystemClock()
        self._keys: KeySet | None = None
        self._fetched_at = 0.0
        self._not_before = float("-inf")
        self._failures = 0
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, key_id: str) -> VerificationKey | None:
        keys = self._current()
        if keys is None:
            await self._fetched()
            keys = self._current()
            if keys is None:
                raise VerificationUnavailable("the proxy's keys could not be fetched")
        found = keys.get(key_id)
        if found is None:
            await self._fetched()  # the proxy may sign with a new key
            keys = self._current()
            return None if keys is None else keys.get(key_id)
        age = self._clock.monotonic() - self._fetched_at
        if age < self._refresh_after:
            return found
        if age < 2 * self._refresh_after:
            self._begin()  # nobody waits for this one
            return found
        # No request has come for a while, and the key may have been taken away in the meantime.
        await self._fetched()
        keys = self._current()
        return None if keys is None else keys.get(key_id)

    async def aclose(self) -> None:
        """End a fetch that is under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    def _current(self) -> KeySet | None:
        if self._clock.monotonic() - self._fetched_at >= self._max_age:
            self._keys = None
        return self._keys

    async def _fetched(self) -> None:
        """Wait for the fetch under way, or for a new one if one may begin."""
        fetching = self._begin()
        if fetching is not None:
            # Shielded: that one request is given up must not end what others wait for.
            await asyncio.shield(fetching)

    def _begin(self) -> asyncio.Task[None] | None:
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        now = self._clock.monotonic()
        if now < self._not_before:
            return None
        self._not_before = now + self._cooldown  # counted from the attempt, whatever becomes of it
        self._fetching = asyncio.create_task(self._attempt(now))
        return self._fetching

    async def _attempt(self, began: float) -> None:
        try:
            self._keys = KeySet.parse(await self._document())
        except (OSError, ValueError) as error:  # TimeoutError is an OSError
            self._not_before = began + min(self._cooldown, 2.0**self._failures)
            self._failures = min(self._failures + 1, 16)
            _log.warning("the proxy's keys could not be fetched from %s: %s", self._url, error)
            return
        self._fetched_at = self._clock.monotonic()
        self._failures = 0

    async def _document(self) -> bytes:
        """The body of the answer; `OSError` or `ValueError` if it is none that can be used."""
        import httpx  # here, since a service that is given its keys needs no client

        client = httpx.AsyncClient(
            verify=self._tls, trust_env=False, follow_redirects=False, timeout=self._timeout, headers=self._headers
        )
        body = bytearray()
        try:
            async with (
                asyncio.timeout(self._timeout),
                client,
                client.stream("GET", self._url) as response,
            ):
                if response.status_code != 200:
                    raise ValueError(f"status {response.status_code}")
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > _MAX_DOCUMENT:
                        raise ValueError(f"more than {_MAX_DOCUMENT} bytes")
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise OSError(type(error).__name__) from error
        return bytes(body)


def _secure(url: str) -> bool:
    """Whether this is an `https:` URL; `ValueError` unless it is that, or plain on a loopback address."""
    parts = urlsplit(url)
    if not parts.hostname or parts.username is not None or parts.fragment:
        raise ValueError(f"{url!r} is not the address of a JWKS")
    if parts.scheme == "https":
        return True
    # Who can change the keys on their way can mint. A name such as *.localhost is not resolved to loopback everywhere.
    if parts.scheme == "http" and is_loopback(parts.hostname):
        return False
    raise ValueError(f"the keys are fetched over https, or over http from a loopback address: not from {url!r}")
