"""The addresses of the proxy's own host, as clients reach it."""

from __future__ import annotations

from ostiary.exchange import Exchange


class OwnHost:
    """`url` is the origin by which clients reach `host`. Without one it is the scheme and the port of the request at
    hand, whichever of our hosts that was for: its Host is one of those that are configured, with a port that is."""

    def __init__(self, host: str, *, url: str | None = None) -> None:
        self._host = host
        self._url = url

    def origin(self, exchange: Exchange) -> str:
        """Without a slash at its end."""
        if self._url is not None:
            return self._url
        authority = (exchange.header(b"host") or b"").decode("latin-1")
        _, mark, port = authority.rpartition(":")
        scheme = exchange.scope.get("scheme", "http")
        return f"{scheme}://{self._host}:{port}" if mark and port.isdigit() else f"{scheme}://{self._host}"
