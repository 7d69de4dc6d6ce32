"""What stands before the application, and before the process starts to serve it."""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config

from ostiary.server.protocol import StrictProtocol
from ostiary.server.tls import TlsFront


class UnsafeListener(RuntimeError):
    """The server is configured so that requests could come in past the strict protocol."""


class Gate:
    """The outermost ASGI callable: scopes of type `http` and `lifespan` go to one application each, others nowhere.

    `Mount` and most middleware hand a websocket on as well; some look at nothing but http (SECURITY section 4).
    """

    def __init__(self, *, http: ASGIApp, lifespan: ASGIApp) -> None:
        self._http = http
        self._lifespan = lifespan

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # No coroutine around the one that does the work: it would be resumed with it each time.
        if scope["type"] == "http":
            return self._http(scope, receive, send)
        return self._other(scope, receive, send)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._lifespan(scope, receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": ""})  # before accepting it: a 403
        else:
            raise UnsafeListener(f"a scope of type {kind!r}")


def refuse_unless_strict(config: Config) -> None:
    """Raise `UnsafeListener` unless this configuration serves HTTP by a `strict_protocol`, with TLS before it
    or without, and nothing besides.

    uvicorn falls back to h11 in silence where httptools is absent, and trusts X-Forwarded-* from loopback by default.
    """
    protocol: object = config.http
    if isinstance(protocol, type) and issubclass(protocol, TlsFront):
        protocol = protocol.strict
    if not (isinstance(protocol, type) and issubclass(protocol, StrictProtocol) and protocol.terms is not None):
        raise UnsafeListener(f"http is {protocol!r}, not a protocol made by strict_protocol()")
    if config.interface != "asgi3":
        raise UnsafeListener(f"interface is {config.interface!r}, not 'asgi3': the gate is not to be guessed at")
    if config.ws != "none":
        raise UnsafeListener(f"ws is {config.ws!r}, not 'none'")
    if config.proxy_headers:
        raise UnsafeListener("proxy_headers is on: clients could name their own address")
    if config.root_path:
        raise UnsafeListener(f"root_path is {config.root_path!r}: paths are forwarded as they came")
