"""The files behind the listener's TLS: read, checked together, and taken into use again when they change.

They are read twice a second, whole: files that are replaced, symbolic links of mounted volumes and coarse clocks all
work, and they are small. What has changed is taken into use once it has been the same at two looks in a row, so that
nothing is read while somebody writes it; and all of it or nothing: a key that does not fit its certificate, or a bundle
that is none, leaves everything as it was, which the log and `/readyz` say. A file that is gone is such a mistake too.
To trust nobody any more, stop the proxy or change its configuration: an empty file means nothing.

New connections get a new context. Connections that are open go on with the one they have; what their client
certificates prove is judged again, by the new authorities, for their next request.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from cryptography import x509

from ostiary.config import Config
from ostiary.config.proofs import Tls
from ostiary.errors import ConfigurationError
from ostiary.identity.certificates import Anchors, Bundle, BundleError, CertificateTrust, PlainAuthority
from ostiary.keyfile import read_key_file
from ostiary.server import server_context

_log = logging.getLogger("ostiary.certificates")

_MAX_BYTES: Final = 1024 * 1024

State: TypeAlias = Literal["current", "outdated"]
"""`outdated`: the files have changed to something that cannot be used, and what they held before is in use."""


def listener_files(config: Config) -> TlsFiles | None:
    """Those of the data listener; None if it does not speak TLS."""
    tls = config.listen.tls
    return None if tls is None else TlsFiles(tls, group_readable=config.secrets.group_readable)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Material:
    context: ssl.SSLContext
    anchors: Anchors
    ends: float


class TlsFiles:
    """A `ContextSource`, and the keeper of a `CertificateTrust`. `load`, then `start`; `close` at the end.

    `group_readable` is about the private key, as in `keyfile.examine`. `interval` is in seconds.
    """

    def __init__(
        self,
        settings: Tls,
        *,
        group_readable: bool = False,
        interval: float = 0.5,
    ) -> None:
        self._settings = settings
        self._group_readable = group_readable
        self._trust = CertificateTrust()
        self._interval = interval
        self._context: ssl.SSLContext | None = None
        self._in_use: Mapping[Path, bytes] = {}
        self._seen: Mapping[Path, bytes] | None = None
        self._failure: str | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def context(self) -> ssl.SSLContext:
        if self._context is None:
            raise RuntimeError("the files of the listener's TLS have not been loaded")
        return self._context

    @property
    def certificate(self) -> Path:
        """The file of the listener's own certificate."""
        return self._settings.certificate

    @property
    def trust(self) -> CertificateTrust:
        return self._trust

    @property
    def state(self) -> State:
        return "current" if self._failure is None else "outdated"

    def load(self) -> None:
        """Read everything and take it into use. Raises `ConfigurationError` with what is wrong with the files."""
        seen = self._read()
        self._adopt(seen, self._make(seen))

    async def start(self) -> None:
        self._watcher = asyncio.create_task(self._watch(), name="watch the files of TLS")

    async def close(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self._look()
            except ConfigurationError as error:
                self._failed("; ".join(error.mistakes))
            except Exception as error:  # noqa: BLE001 - whatever is in a file, the next one may be good
                self._failed(f"unforeseen {type(error).__name__}")

    async def _look(self) -> None:
        seen = await asyncio.to_thread(self._read)
        before, self._seen = self._seen, seen
        if seen == self._in_use:
            if self._failure is not None:
                _log.info("the files of the listener's TLS are again those that are in use")
                self._failure = None
        elif seen == before:
            self._adopt(seen, await asyncio.to_thread(self._make, seen))

    def _adopt(self, seen: Mapping[Path, bytes], material: _Material) -> None:
        self._in_use, self._failure = seen, None
        self._context = material.context
        self._trust.replace(material.anchors)
        _log.info(
            "TLS: generation %d of the listener's files, its certificate ends at %d",
            self._trust.generation,
            material.ends,
        )

    def _failed(self, failure: str) -> None:
        if failure != self._failure:
            _log.error("the files of the listener's TLS have changed and cannot be used, those before are: %s", failure)
        self._failure = failure

    # Reading, all of it off the event loop.

    def _read(self) -> Mapping[Path, bytes]:
        settings, found = self._settings, {}
        paths = [settings.certificate, settings.key, *(settings.trust_domains or {}).values()]
        if settings.client_ca is not None:
            paths.append(settings.client_ca.file)
        mistakes: list[str] = []
        for path in dict.fromkeys(paths):
            try:
                found[path] = self._read_one(path)
            except ConfigurationError as error:
                mistakes += error.mistakes
                continue
            except OSError as error:
                mistakes.append(f"{path}: cannot be read: {error.strerror}")
                continue
            if len(found[path]) > _MAX_BYTES:
                mistakes.append(f"{path}: is larger than {_MAX_BYTES} bytes")
        if mistakes:
            raise ConfigurationError(mistakes)
        return found

    def _read_one(self, path: Path) -> bytes:
        if path == self._settings.key:
            return read_key_file(
                path, what="the listener's key", limit=_MAX_BYTES + 1, group_readable=self._group_readable
            )
        with path.open("rb") as file:
            return file.read(_MAX_BYTES + 1)

    def _make(self, seen: Mapping[Path, bytes]) -> _Material:
        settings = self._settings
        mistakes: list[str] = []
        bundles: dict[Path, Bundle] = {}
        domains = settings.trust_domains or {}
        authorities = [*domains.values()] + ([] if settings.client_ca is None else [settings.client_ca.file])
        for path in dict.fromkeys(authorities):
            try:
                bundles[path] = Bundle.read(seen[path])
            except BundleError as error:
                mistakes.append(f"{path}: {error}")
        ends = 0.0
        try:
            ends = _ends(seen[settings.certificate])
        except ValueError:
            mistakes.append(f"{settings.certificate}: holds no certificate in PEM, or a broken one")
        context: ssl.SSLContext | None = None
        if not mistakes:
            try:
                context = server_context(
                    certificate=settings.certificate,
                    key=settings.key,
                    authorities="".join(bundle.pem for bundle in bundles.values()),
                    least=settings.min_version,
                )
            except (OSError, ValueError) as error:  # OpenSSL's text about a private key is not shown
                kind = (getattr(error, "reason", None) or type(error).__name__).lower().replace("_", " ")
                mistakes.append(f"{settings.certificate} and {settings.key}: cannot be used together: {kind}")
        if not mistakes and self._read() != seen:
            # OpenSSL has read certificate and key by itself: what it holds must be what was looked at.
            mistakes.append("the files of the listener's TLS changed while they were read")
        if mistakes or context is None:
            raise ConfigurationError(mistakes)
        plain = settings.client_ca
        return _Material(
            context=context,
            anchors=Anchors(
                trust_domains={name: bundles[path] for name, path in domains.items()},
                plain=None
                if plain is None
                else PlainAuthority(issuer=plain.issuer, subject=plain.subject, bundle=bundles[plain.file]),
            ),
            ends=ends,
        )


def _ends(pem: bytes) -> float:
    return x509.load_pem_x509_certificates(pem)[0].not_valid_after_utc.timestamp()
