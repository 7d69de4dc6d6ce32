"""Where key documents come from: an address, an issuer's discovery document, a file."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ostiary.identity.keys import MAX_DOCUMENT_BYTES, KeySourceError
from ostiary.identity.settings import Discovery, KeyFile, KeyOrigin, check_url, origin
from ostiary.strictjson import NotStrict, read_object

if TYPE_CHECKING:  # else it is imported where an issuer's keys are fetched: with httpx, a tenth of a proxy's start
    from ostiary.identity.fetch import DocumentFetcher

_MAX_DEPTH = 8


class KeySource(Protocol):
    async def read(self) -> bytes:
        """The document that holds the keys. Raises `KeySourceError`, and nothing else."""


class AddressSource:
    """A JWK Set at a known address."""

    def __init__(self, *, url: str, fetcher: DocumentFetcher) -> None:
        self._url = url
        self._fetcher = fetcher

    async def read(self) -> bytes:
        return await self._fetcher.get(self._url)


class DiscoverySource:
    """OpenID Connect Discovery 1.0, sections 4.1 and 4.3: the document must name the issuer that it was asked of.

    Its `jwks_uri` must share the issuer's origin. The document is read again each time: a moved key set is followed.
    """

    def __init__(self, *, issuer: str, fetcher: DocumentFetcher) -> None:
        self._issuer = issuer
        self._url = issuer.removesuffix("/") + "/.well-known/openid-configuration"
        self._fetcher = fetcher

    async def read(self) -> bytes:
        return await self._fetcher.get(self._keys_url(await self._fetcher.get(self._url)))

    def _keys_url(self, document: bytes) -> str:
        try:
            metadata = read_object(document, max_depth=_MAX_DEPTH)
        except NotStrict as error:
            raise KeySourceError("malformed", f"not a discovery document: {error}") from None
        if metadata.get("issuer") != self._issuer:
            raise KeySourceError("issuer-mismatch", "the discovery document names another issuer")
        url = metadata.get("jwks_uri")
        if not isinstance(url, str):
            raise KeySourceError("malformed", "not a discovery document: it has no jwks_uri")
        try:
            same = origin(check_url(url)) == origin(check_url(self._issuer))
        except ValueError:
            raise KeySourceError("url-refused", "the jwks_uri is no address that may be fetched") from None
        if not same:
            raise KeySourceError("origin-mismatch", "the jwks_uri is not of the issuer's origin")
        return url


class FileSource:
    """A file, read whole each time: replaced files, symbolic links of a mounted volume and coarse clocks all work."""

    def __init__(self, *, path: Path) -> None:
        self._path = path

    async def read(self) -> bytes:
        return await asyncio.to_thread(self.read_now)

    def read_now(self) -> bytes:
        """Blocks; raises as `read` does."""
        try:
            with self._path.open("rb") as file:
                document = file.read(MAX_DOCUMENT_BYTES + 1)
        except OSError as error:
            raise KeySourceError("file", f"{self._path} cannot be read: {error.strerror}") from None
        if len(document) > MAX_DOCUMENT_BYTES:
            raise KeySourceError("oversized", f"{self._path} is larger than {MAX_DOCUMENT_BYTES} bytes")
        return document


def source_of(issuer: str, keys: KeyOrigin) -> KeySource:
    """The source that an issuer's settings ask for."""
    if isinstance(keys, KeyFile):
        return FileSource(path=keys.path)
    from ostiary.identity.fetch import DocumentFetcher

    fetcher = DocumentFetcher(ca_file=keys.ca_file, token_file=keys.token_file)
    if isinstance(keys, Discovery):
        return DiscoverySource(issuer=issuer, fetcher=fetcher)
    return AddressSource(url=keys.url, fetcher=fetcher)
