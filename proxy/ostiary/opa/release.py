"""OPA's official releases: a static program for each kind of machine, with its SHA-256 beside it."""

from __future__ import annotations

import hashlib
import platform
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ostiary.addresses import is_loopback

if TYPE_CHECKING:  # else it is imported by what fetches: nearly every start finds its OPA on this machine
    import httpx

_SYSTEMS: Final = {"linux": "linux", "darwin": "darwin"}
_MACHINES: Final = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_CHECKSUM: Final = re.compile(r"([0-9a-fA-F]{64})(?:[ \t]+\*?(\S+))?\s*")

_PROGRAM_LIMIT: Final = 256 * 1024 * 1024  # bytes; OPA is 60 MB
_CHECKSUM_LIMIT: Final = 1024
_CONNECT_TIMEOUT: Final = 3.0  # short: many machines cannot reach it
_READ_TIMEOUT: Final = 30.0
_TOTAL_TIMEOUT: Final = 900.0


class ReleaseError(Exception):
    """What the release page gave is not what it should be. The message is a clause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release host. `base` is the URL above the version's directory."""

    base: str = "https://github.com/open-policy-agent/opa/releases/download"

    @staticmethod
    def asset() -> str | None:
        """The name of the program for this machine, None if there is none."""
        system, machine = _SYSTEMS.get(sys.platform), _MACHINES.get(platform.machine().lower())
        return None if system is None or machine is None else f"opa_{system}_{machine}_static"

    def url(self, version: str, name: str) -> str:
        return f"{self.base}/v{version}/{name}"

    def fetch(self, version: str, name: str, to: Path) -> str:
        """Write the program to `to`; its SHA-256 (hex), which is the published one.

        Raises `ReleaseError`, and `OSError` where `to` cannot be written.
        """
        import httpx

        try:
            return self._fetch(version, name, to)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ReleaseError(f"{type(error).__name__}: {error}") from error

    def _fetch(self, version: str, name: str, to: Path) -> str:
        with self._client() as client:
            published = self._published(client, self.url(version, name) + ".sha256", name)
            digest = hashlib.sha256()
            length, deadline = 0, time.monotonic() + _TOTAL_TIMEOUT
            with client.stream("GET", self.url(version, name)) as response, to.open("xb") as file:
                response.raise_for_status()
                for piece in response.iter_bytes():
                    length += len(piece)
                    if length > _PROGRAM_LIMIT:
                        raise ReleaseError(f"{name} is longer than {_PROGRAM_LIMIT} bytes")
                    if time.monotonic() > deadline:
                        raise ReleaseError(f"{name} did not arrive within {_TOTAL_TIMEOUT:g} s")
                    digest.update(piece)
                    file.write(piece)
        found = digest.hexdigest()
        if found != published:
            raise ReleaseError(f"{name} does not have the checksum that is published beside it")
        return found

    def _client(self) -> httpx.Client:
        """A release is behind a redirect to where it is stored: followed here, and nowhere else in ostiary."""
        import httpx

        return httpx.Client(
            follow_redirects=True,
            max_redirects=5,
            trust_env=False,
            timeout=httpx.Timeout(_READ_TIMEOUT, connect=_CONNECT_TIMEOUT),
            event_hooks={"request": [_https_only(httpx.URL(self.base))]},
            headers={"accept-encoding": "identity"},
        )

    def _published(self, client: httpx.Client, url: str, name: str) -> str:
        with client.stream("GET", url) as response:
            response.raise_for_status()
            text = bytearray()
            for piece in response.iter_bytes():
                text += piece
                if len(text) > _CHECKSUM_LIMIT:
                    raise ReleaseError(f"the checksum of {name} is not one")
        found = _CHECKSUM.fullmatch(text.decode("ascii", "replace"))
        if found is None or found[2] not in (None, name):
            raise ReleaseError(f"the checksum of {name} is not one")
        return found[1].lower()


def _https_only(base: httpx.URL) -> Callable[[httpx.Request], None]:
    """Refuses every hop that is not https, except where the release host itself is a plain one on this machine."""
    plain = base.host if base.scheme == "http" and is_loopback(base.host) else None

    def check(request: httpx.Request) -> None:
        if request.url.scheme != "https" and request.url.host != plain:
            raise ReleaseError(f"{request.url.host} was to be asked without https")

    return check
