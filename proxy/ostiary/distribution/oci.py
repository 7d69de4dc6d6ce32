"""Publishing to an OCI registry (distribution-spec 1.1), as OPA fetches it with a service of `type: oci`.

    oci://registry.test/policies/shop:latest

The bundle is the one layer of an image manifest, `application/vnd.oci.image.layer.v1.tar+gzip`, which is what OPA's
downloader looks for; the configuration is the empty object. The manifest says the revision in its annotations, so that
who publishes next need not get the bundle. A tag moves from one manifest to the other at once; but a registry cannot
be told to move it only if it is where it was found, so of two that publish in the same moment the later one wins.

User and password are for the registry, or for the token service that it names (`WWW-Authenticate: Bearer`); the service
is only told them over https, or on loopback, and on another host than the registry's only if it was named.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, NoReturn, Self
from urllib.parse import urljoin, urlsplit

import httpx
import orjson

from ostiary.addresses import is_localhost
from ostiary.decision.revision import Revision
from ostiary.distribution.archives import LARGEST, Archive, Examiner
from ostiary.distribution.publishing import Found, PublishFailed
from ostiary.distribution.web import Connection, answers, whole

_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_REVISION: Final = "org.opencontainers.image.version"
_CONTENT: Final = b"{}"
_LARGEST_MANIFEST: Final = 4 * 1024**2  # bytes; the specification's advice
_LARGEST_TOKEN: Final = 256 * 1024
_SHOWN: Final = 300

_REFERENCE: Final = re.compile(
    r"oci://(?P<host>[A-Za-z0-9.-]+|\[[0-9a-f:]+\])(?P<port>:[0-9]{1,5})?"
    r"/(?P<repository>[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)"
    r":(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127})",
    re.ASCII,
)
_CHALLENGE: Final = re.compile(r'([a-z]+)="([^"]*)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Who publishes to a registry."""

    user: str
    password: str = field(repr=False)

    @property
    def header(self) -> str:
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Where a bundle is in a registry."""

    registry: str
    repository: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> Reference | None:
        found = _REFERENCE.fullmatch(text)
        if found is None:
            return None
        return cls(registry=found["host"] + (found["port"] or ""), repository=found["repository"], tag=found["tag"])

    def url(self, path: str) -> str:
        """Of the repository's API. Only a registry on loopback is spoken to without TLS."""
        host = urlsplit(f"//{self.registry}").hostname or ""
        return f"{'http' if is_localhost(host) else 'https'}://{self.registry}/v2/{self.repository}/{path}"


class OciTarget:
    """Implements `publishing.Target`; to be opened (`with`) and closed. `token_host` may be told user and password
    beside the registry."""

    def __init__(
        self,
        reference: Reference,
        *,
        login: Login | None,
        connection: Connection,
        examiner: Examiner,
        token_host: str | None = None,
    ) -> None:
        self._reference = reference
        self._token_host = None if token_host is None else token_host.lower()
        self._login = login
        self._examiner = examiner
        self._manifest = reference.url(f"manifests/{reference.tag}")
        self._client = connection.open(self._manifest)
        self._authorization = None if login is None else login.header

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def find(self) -> Found | None:
        response = self._ask("GET", self._manifest, headers={"accept": _MANIFEST}, most=_LARGEST_MANIFEST)
        if response.status_code == 404:
            return None
        if response.status_code != 200:
            _fail(self._manifest, response)
        token = response.headers.get("docker-content-digest")
        layer, revision = _layer(response.content)
        if layer is not None and revision is None:
            return self._get(layer, token)
        return Found(revision=revision, digest=layer, token=token)

    def put(self, archive: Archive, *, instead_of: Found | None, force: bool) -> None:
        self._upload(archive.content)
        self._upload(_CONTENT)
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor(_CONFIG, _CONTENT),
            "layers": [_descriptor(_LAYER, archive.content)],
            "annotations": {_REVISION: str(archive.revision)},
        }
        content = orjson.dumps(manifest)
        response = self._ask("PUT", self._manifest, headers={"content-type": _MANIFEST}, content=content)
        if response.status_code != 201:
            _fail(self._manifest, response)

    def put_statement(self, content: bytes) -> None:
        raise PublishFailed(
            "a registry has nothing beside a bundle: give proxies the statement as a file, or publish to a server"
        )

    def _get(self, digest: str, token: object) -> Found:
        url = self._reference.url(f"blobs/sha256:{digest}")
        response = self._ask("GET", url, most=LARGEST)
        if response.status_code != 200:
            _fail(url, response)
        found = Found.read(response.content, self._examiner, token=token)
        if found.digest != digest:
            raise PublishFailed(f"{url}: is not what its digest says")
        return found

    def _upload(self, content: bytes) -> None:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if self._ask("HEAD", self._reference.url(f"blobs/{digest}")).status_code == 200:
            return
        begin = self._reference.url("blobs/uploads/")
        response = self._ask("POST", begin)
        if response.status_code != 202 or "location" not in response.headers:
            _fail(begin, response)
        place = httpx.URL(urljoin(begin, response.headers["location"]))
        if (place.scheme, place.host, place.port) != (self._url.scheme, self._url.host, self._url.port):
            raise PublishFailed(f"{begin}: the registry wants the bundle to be sent to another server")
        response = self._ask(
            "PUT",
            str(place.copy_merge_params({"digest": digest})),
            headers={"content-type": "application/octet-stream"},
            content=content,
        )
        if response.status_code != 201:
            _fail(begin, response)

    @property
    def _url(self) -> httpx.URL:
        return httpx.URL(self._manifest)

    def _ask(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
        most: int = _LARGEST_MANIFEST,
    ) -> httpx.Response:
        """The answer. A registry that wants a token says where it is to be had, and is asked again with it."""
        response = self._send(method, url, headers=headers, content=content, most=most)
        if response.status_code != 401:
            return response
        self._authorization = self._token(response.headers.get("www-authenticate", ""))
        return self._send(method, url, headers=headers, content=content, most=most)

    def _send(
        self, method: str, url: str, *, headers: dict[str, str] | None, content: bytes | None, most: int
    ) -> httpx.Response:
        given = dict(headers or {})
        if self._authorization is not None:
            given["authorization"] = self._authorization
        with answers(url), self._client.stream(method, url, headers=given, content=content) as response:
            body = whole(response, most=most)
        return httpx.Response(response.status_code, headers=_plain(response.headers), content=body)

    def _token(self, challenge: str) -> str:
        scheme, _, rest = challenge.partition(" ")
        asked = dict(_CHALLENGE.findall(rest))
        realm = asked.pop("realm", "")
        if scheme.lower() != "bearer" or not realm:
            raise PublishFailed(f"{self._manifest}: user and password are missing, or are none that are known")
        self._check_realm(realm)
        wanted = {"service": asked.get("service", ""), "scope": f"repository:{self._reference.repository}:pull,push"}
        headers = {} if self._login is None else {"authorization": self._login.header}
        with answers(realm), self._client.stream("GET", realm, params=wanted, headers=headers) as response:
            content = whole(response, most=_LARGEST_TOKEN)
        if response.status_code != 200:
            _fail(realm, httpx.Response(response.status_code, content=content))
        try:
            document = orjson.loads(content)
            token = document.get("token") or document.get("access_token")
        except (orjson.JSONDecodeError, AttributeError):
            token = None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise PublishFailed(f"{realm}: gives no token")
        return f"Bearer {token}"

    def _check_realm(self, realm: str) -> None:
        """Where tokens are to be had, the registry says, and anybody could be there: user and password go to another
        host than the registry's only if whoever publishes has named it."""
        try:
            parts = urlsplit(realm)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            host = ""
        local = is_localhost(host)
        if not host or "@" in parts.netloc or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
            raise PublishFailed(f"{self._manifest}: the registry's tokens are at {realm!r}, which is not https")
        own = self._url.host
        if self._login is None or host in (own, self._token_host) or (local and is_localhost(own)):
            return
        raise PublishFailed(
            f"{self._manifest}: the registry's tokens are at {host}, which is another host:"
            f" --token-host {host} lets it have user and password"
        )


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {
        "mediaType": media_type,
        "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
        "size": len(content),
    }


def _layer(manifest: bytes) -> tuple[str | None, Revision | None]:
    """The digest of the layer that OPA would load, and the revision that is said of it."""
    try:
        document = orjson.loads(manifest)
        layers = [one for one in document["layers"] if one["mediaType"] == _LAYER]
        digest = layers[0]["digest"]
        annotations = document.get("annotations") or {}
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError, AttributeError):
        return None, None
    found = re.fullmatch("sha256:([0-9a-f]{64})", digest) if isinstance(digest, str) else None
    if found is None:
        return None, None
    return found[1], Revision.parse(annotations.get(_REVISION) if isinstance(annotations, dict) else None)


def _plain(headers: httpx.Headers) -> dict[str, str]:
    """Without what was about the body on the wire."""
    return {name: value for name, value in headers.items() if name not in ("content-encoding", "transfer-encoding")}


def _fail(url: str, response: httpx.Response) -> NoReturn:
    said = ""
    try:
        error = orjson.loads(response.content)["errors"][0]
        said = f"{error['code']}: {error.get('message', '')}"
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        pass
    line = "".join(each if each.isprintable() else " " for each in said[:_SHOWN])
    raise PublishFailed(f"{url}: the registry says {response.status_code}{': ' + line if line else ''}")
