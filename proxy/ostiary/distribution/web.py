"""Publishing by HTTP PUT: to `ostiary bundle serve`, or to any server that takes one.

With a server that sends entity tags, of two publishers the second is told (If-Match, RFC 9110 section 13.1.1).
Redirects are not followed, and neither proxies nor credentials are taken from the environment: a token goes to the
server that was named, and to no other.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx
import orjson

from ostiary.decision.revision import Revision
from ostiary.decision.rollback import MEDIA_TYPE, SUFFIX
from ostiary.distribution.app import FORCE, REVISION
from ostiary.distribution.archives import LARGEST, Archive, Examiner
from ostiary.distribution.publishing import Found, PublishFailed, TargetChanged

_DEADLINE: Final = 60.0  # seconds for one step: connecting, a piece that is sent, a piece that is read
_SHOWN: Final = 300
_LARGEST_ERROR: Final = 256 * 1024  # bytes of what a server says against a request


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """How a server is known, and how this client is. `ca_file` holds the authorities, the system's if None; the
    certificate and its key are files, PEM."""

    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Raises `PublishFailed`."""
        try:
            context = ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))
        except OSError as error:
            raise PublishFailed(f"{self.ca_file}: holds no authorities: {error.strerror or error}") from error
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key)
            except OSError as error:
                raise PublishFailed(f"{self.certificate}: cannot be used: {error.strerror or error}") from error
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A client for control traffic to one place."""

    token: str | None = field(default=None, repr=False)
    trust: Trust = Trust()

    def open(self, url: str) -> httpx.Client:
        """Raises `PublishFailed`."""
        secure = url.startswith("https:")
        headers = {"user-agent": "ostiary", "accept-encoding": "identity"}
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token}"
        return httpx.Client(
            trust_env=False,
            follow_redirects=False,
            timeout=_DEADLINE,
            headers=headers,
            verify=self.trust.context() if secure else False,
        )


class WebTarget:
    """Implements `publishing.Target`; to be opened (`with`) and closed."""

    def __init__(self, url: str, *, connection: Connection, examiner: Examiner) -> None:
        self._url = url
        self._examiner = examiner
        self._client = connection.open(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def find(self) -> Found | None:
        with answers(self._url):
            told = self._client.head(self._url)
        if told.status_code == 404:
            return None
        if told.is_success and (revision := Revision.parse(told.headers.get(REVISION))) is not None:
            tag = told.headers.get("etag")
            return Found(revision=revision, digest=None if tag is None else tag.strip('"'), token=_strong(tag))
        return self._get()

    def _get(self) -> Found | None:
        with answers(self._url), self._client.stream("GET", self._url) as response:
            if response.status_code == 404:
                return None
            content = whole(response, most=LARGEST)
        if not response.is_success:
            raise PublishFailed(said(self._url, response.status_code, content))
        return Found.read(content, self._examiner, token=_strong(response.headers.get("etag")))

    def put(self, archive: Archive, *, instead_of: Found | None, force: bool) -> None:
        headers = {"content-type": "application/gzip"}
        if instead_of is None:
            headers["if-none-match"] = "*"
        elif isinstance(instead_of.token, str):
            headers["if-match"] = instead_of.token
        if force:
            headers[FORCE] = "older"
        self._put(self._url, archive.content, headers)

    def put_statement(self, content: bytes) -> None:
        parts = urlsplit(self._url)
        beside = parts._replace(path=f"{parts.path}{SUFFIX}").geturl()
        self._put(beside, content, {"content-type": MEDIA_TYPE})

    def _put(self, url: str, content: bytes, headers: Mapping[str, str]) -> None:
        with answers(url), self._client.stream("PUT", url, content=content, headers=headers) as response:
            if response.status_code == 412:
                raise TargetChanged
            if not response.is_success:
                raise PublishFailed(said(url, response.status_code, whole(response, most=_LARGEST_ERROR)))


@contextlib.contextmanager
def answers(url: str) -> Iterator[None]:
    """Raise `PublishFailed` for what keeps a server from answering."""
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
        raise PublishFailed(f"{url}: no answer: {error}") from error


def whole(response: httpx.Response, *, most: int) -> bytes:
    """What a response that is streamed holds. Raises `PublishFailed` for more bytes than that."""
    content = bytearray()
    for piece in response.iter_bytes():
        content += piece
        if len(content) > most:
            raise PublishFailed(f"{response.url}: the server says {response.status_code}, and more than {most} bytes")
    return bytes(content)


def said(url: str, status: int, body: bytes) -> str:
    """What a server says against a request, in one line."""
    told: Any = None
    with contextlib.suppress(orjson.JSONDecodeError):
        document = orjson.loads(body)
        told = document.get("detail") if isinstance(document, dict) else None
    line = f"{url}: the server says {status}"
    if not isinstance(told, str):
        return line
    return f"{line}: " + "".join(each if each.isprintable() else " " for each in told[:_SHOWN])


def _strong(tag: str | None) -> str | None:
    return None if tag is None or tag.startswith("W/") else tag
