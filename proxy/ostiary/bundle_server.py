"""A bundle server as a process: its listener, its TLS, its end. What it serves, and to whom, is in `distribution`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import uvloop

from ostiary.clock import SystemClock
from ostiary.distribution.access import Access
from ostiary.distribution.app import BundleServer
from ostiary.distribution.archives import Examiner
from ostiary.distribution.files import Identity
from ostiary.distribution.protocol import bundle_protocol
from ostiary.distribution.reports import Reports
from ostiary.distribution.store import Store
from ostiary.errors import ConfigurationError
from ostiary.keyfile import read_key_file
from ostiary.listening import Server, allow_descriptors, bind, listen, quiet
from ostiary.server import Census, server_context

_log = logging.getLogger("ostiary.distribution")

_LOOK: Final = 2.0
"""Seconds between two looks at the certificate."""
_SPARE: Final = 64
"""What is open besides connections."""
_SIZE: Final = 1024 * 1024


class AddressTaken(Exception):
    """The address cannot be listened on."""


class TlsFiles:
    """How TLS is spoken: by files that are taken into use again when they change, for the connections that are made
    then.

    Raises `ConfigurationError` and OSError.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._seen = self._identities()
        self.context = self._now = self._read()
        # The listener keeps the context that it was given; each handshake is told of the one that is used now, also if
        # the client names no server.
        self.context.sni_callback = self._use

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            try:
                seen = self._identities()
                if seen == self._seen:
                    continue
                self._seen = seen
                self._now = self._read()
            except (OSError, ConfigurationError) as error:
                _log.error("the certificate and the authorities stay as they were: %s", error)
            else:
                _log.info("the certificate was replaced")

    def _use(self, handshake: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        handshake.context = self._now

    def _read(self) -> ssl.SSLContext:
        read_key_file(self._key, what="the private key", limit=_SIZE, group_readable=True)
        authorities = "" if self._client_ca is None else self._client_ca.read_text(encoding="ascii", errors="replace")
        if self._client_ca is not None and "BEGIN CERTIFICATE" not in authorities:
            raise ConfigurationError([f"{self._client_ca}: holds no certificate (PEM)"])
        try:
            return server_context(certificate=self._certificate, key=self._key, authorities=authorities)
        except ssl.SSLError as error:
            raise ConfigurationError(
                [f"{self._certificate}: cannot be used with {self._key}: {_reason(error)}"]
            ) from error

    def _identities(self) -> tuple[Identity, ...]:
        files = (self._certificate, self._key, self._client_ca)
        return tuple(Identity.of(file.stat()) for file in files if file is not None)


def serve(
    directory: Path,
    *,
    host: str,
    port: int,
    access: Access,
    examiner: Examiner,
    connections: int,
    per_peer: int,
    tls: TlsFiles | None,
) -> None:
    """Serve what is published in the directory until SIGTERM or SIGINT. Blocks.

    Raises `AddressTaken`, and OSError if the directory cannot be read.
    """
    allow_descriptors(connections + _SPARE, by="so many connections")
    try:
        listener = bind(host, port)
        listen(listener)
    except OSError as error:
        raise AddressTaken(str(error)) from error
    store = Store(directory, examiner=examiner)
    bundles = BundleServer(store, access=access, reports=Reports(clock=SystemClock()))
    with contextlib.closing(listener), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        census = Census(limit=sys.maxsize, per_peer=per_peer)
        runner.run(_run(store, bundles, listener, connections=connections, census=census, tls=tls))


async def _run(
    store: Store,
    bundles: BundleServer,
    listener: socket.socket,
    *,
    connections: int,
    census: Census,
    tls: TlsFiles | None,
) -> None:
    config = quiet(bundles.application, http=bundle_protocol(census), patience=2)
    config.limit_concurrency = connections  # beyond them the answer is 503
    config.load()
    config.ssl = None if tls is None else tls.context
    server = Server(config)

    def stop() -> None:
        bundles.end()
        server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await store.load()
    secured = "" if tls is None else ", over TLS"
    _log.info("serving %d bundle(s) on %s:%d%s", len(store.all()), *listener.getsockname()[:2], secured)
    async with _watching(store, tls):
        await server.serve(sockets=[listener])


@contextlib.asynccontextmanager
async def _watching(store: Store, tls: TlsFiles | None) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(store.watch(), name="watch")]
    if tls is not None:
        tasks.append(asyncio.create_task(tls.watch(), name="watch-tls"))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
