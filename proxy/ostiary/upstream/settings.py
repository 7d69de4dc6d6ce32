"""What is configured of one upstream. Plain records: the stage never sees the configuration itself."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ostiary.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """How an upstream proves itself.

    `ca_file` holds the only authorities trusted (PEM); None stands for the system's. The name in the certificate
    must be `server_name`, by default the upstream's host.
    """

    ca_file: Path | None = None
    server_name: str | None = None

    def context(self) -> ssl.SSLContext:
        """The client context: TLS 1.2 or later, certificate and name verified; `ConfigurationError` if unreadable."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.set_alpn_protocols(["http/1.1"])
        except OSError as error:
            raise ConfigurationError([f"{self.ca_file}: cannot be used for TLS: {error}"]) from error
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSettings:
    """One upstream: where it is, and every limit on what it may take. Times are seconds, sizes bytes.

    `tls` is used when `scheme` is `https`. `max_connections` counts those of one worker, half of them for one identity;
    `max_waiting` requests may wait `wait_timeout` each for one.

    `first_byte_timeout` runs from the last byte of the request to the complete response head, `idle_timeout` between
    two pieces of the response, or of a request body that the upstream does not take. `client_idle_timeout` bounds how
    long the client may send or take nothing. `total_timeout` bounds the whole exchange, streams included. `keep_alive`
    is how long an idle connection is kept, `connection_age` how long one is used at all.

    `body_bytes` limits the request body, `response_body_bytes` (None: no limit) the response's, and
    `response_header_bytes` each header section of the response, interim ones and trailers included. `keep_headers` are
    the request headers (lower case) that go upstream although the rules of `headers` for keepable ones would have them
    removed.
    """

    host: str
    port: int
    scheme: Literal["http", "https"]
    tls: TlsSettings
    max_connections: int
    max_waiting: int = 1024
    wait_timeout: float = 1.0
    connect_timeout: float
    first_byte_timeout: float
    idle_timeout: float
    client_idle_timeout: float
    total_timeout: float
    keep_alive: float
    connection_age: float
    body_bytes: int
    response_header_bytes: int
    response_body_bytes: int | None
    keep_headers: frozenset[bytes] = frozenset()

    def __post_init__(self) -> None:
        if not self.host or not 0 < self.port < 65536:
            raise ValueError(f"not an upstream address: {self.host!r}, port {self.port}")
        if self.max_connections < 1:
            raise ValueError("an upstream needs at least one connection")

    @property
    def authority(self) -> str:
        """`host:port` as URLs write it, the port left out where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"
