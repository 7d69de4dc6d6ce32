"""What is sent: raw HTTP/1.1 requests, one after the other in a file, as the load program takes them."""

from __future__ import annotations

from typing import Final

HOST: Final = "orders.localhost"


def get(path: str, token: str, *, host: str = HOST) -> bytes:
    return _head("GET", path, token, host) + b"\r\n"


def post(path: str, token: str, body: int, *, host: str = HOST) -> bytes:
    """With a body of so many bytes."""
    return _head("POST", path, token, host) + b"Content-Length: %d\r\n\r\n" % body + b"x" * body


def _head(method: str, path: str, token: str, host: str) -> bytes:
    fields = (
        f"{method} {path} HTTP/1.1",
        f"Host: {host}",
        "User-Agent: bench",
        "Accept: */*",
        f"Authorization: Bearer {token}",
    )
    return b"".join(field.encode("ascii") + b"\r\n" for field in fields)
