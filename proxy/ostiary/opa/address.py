"""Where an OPA listens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ostiary.addresses import is_loopback

_PORTS = {"http": 8181, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaAddress:
    """A unix socket (`socket`), or host and port. Host is as a URL has it: an IPv6 address is in brackets."""

    socket: Path | None = None
    host: str = "localhost"
    port: int = 8181
    tls: bool = False

    @classmethod
    def parse(cls, text: str) -> OpaAddress:
        """Parse `unix:///path`, `https://host[:port]` or `http://127.0.0.1[:port]`; raises `ValueError`.

        Plain http reaches loopback only: whoever can answer in OPA's place decides everything. A path, query or user
        name is refused: the paths of OPA's API are constants.
        """
        parts = urlsplit(text)
        if parts.scheme == "unix":
            if parts.netloc or not parts.path.startswith("/") or parts.query or parts.fragment:
                raise ValueError(f"the address of a unix socket is unix:///absolute/path, not {text!r}")
            return cls(socket=Path(parts.path))
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError("the address of an OPA is unix:///path, https://host:port or http://127.0.0.1:port")
        if "@" in parts.netloc:
            raise ValueError("the address of an OPA holds no user name or password: give a token instead")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError(f"the address of an OPA ends after the port, and {text!r} does not")
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            raise ValueError(f"plain http reaches an OPA on this machine only: use https for {parts.hostname!r}")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(host=host, port=parts.port or _PORTS[parts.scheme], tls=parts.scheme == "https")

    def __str__(self) -> str:
        if self.socket is not None:
            return f"unix://{self.socket}"
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"
