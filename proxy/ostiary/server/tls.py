"""TLS before the strict protocol: one handshake for each connection, with the certificates and authorities of now.

A connection is accepted as plain TCP, counted, and only then asked to speak TLS. So a flood of handshakes that never
end meets the same limits as one of requests that never end; each handshake takes the context that is current when it
begins, so that new certificates need no new listener; and connections that are open go on as they are.

Client certificates are asked for where authorities are configured, never demanded: a client without one may still read
what everybody may, and its refusal is an answer and a line in the audit. One that no authority vouches for ends the
handshake. Whose name an authority may vouch for is not OpenSSL's to say, and is judged by the identity stage.

Nothing of a session outlives its connection where client certificates are asked for (no tickets; a new context has a
new, empty session cache): what was believed of a certificate once is never believed again without a look at it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from types import MappingProxyType
from typing import Any, ClassVar, Final, Protocol, cast

from uvicorn.config import Config
from uvicorn.protocols.utils import get_remote_addr
from uvicorn.server import ServerState

from ostiary.addresses import unmapped
from ostiary.errors import AccessError, HandshakeFailed, Overloaded
from ostiary.peer import PEER_CERTIFICATE, PeerCertificate
from ostiary.server.connection import Terms
from ostiary.server.protocol import EXTENSIONS, StrictProtocol
from ostiary.server.refused import Refused

_log = logging.getLogger("ostiary.server")

# Forward secrecy and authenticated encryption (RFC 9325 section 4.2), for TLS 1.2; all of TLS 1.3 has both.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_CHAIN: Final = 10  # certificates that are taken of a client


class ContextSource(Protocol):
    """Who has the certificates."""

    @property
    def context(self) -> ssl.SSLContext:
        """The one for connections that begin now."""


def server_context(
    *, certificate: str | os.PathLike[str], key: str | os.PathLike[str], authorities: str = "", least: str = "TLSv1.2"
) -> ssl.SSLContext:
    """How a listener speaks TLS: `certificate` and `key` are PEM files, `authorities` the PEM of those whose clients'
    certificates are taken, none if empty, and `least` is `TLSv1.2` or `TLSv1.3`.

    Raises `OSError` for files that cannot be read, `ssl.SSLError` (an `OSError` too) for what does not fit together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}[least]
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certificate, key, password=_no_password)
    if authorities:
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an authority in the list is an end of the chain
        context.load_verify_locations(cadata=authorities)
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def _no_password() -> bytes:
    return b""  # an encrypted key fails, where OpenSSL would ask at the terminal


class TlsFront(asyncio.Protocol):
    """Stands before `strict` until the handshake is over. Use `tls_protocol` to make one that can serve.

    `strict` and `contexts` are the class's, because uvicorn makes the instances.
    """

    strict: ClassVar[type[StrictProtocol] | None] = None
    contexts: ClassVar[ContextSource | None] = None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if self.strict is None or self.strict.terms is None or self.contexts is None:
            raise TypeError("a listener's protocol is made by tls_protocol()")
        self._strict = self.strict
        self._terms: Terms = self.strict.terms
        self._contexts = self.contexts
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_event_loop()
        self._transport: asyncio.Transport | None = None
        self._peer: str | None = None  # whom a refusal is reported of
        self._counted: str | None = None
        self._greeting: asyncio.Task[None] | None = None
        self._early: list[bytes] = []  # what came before this side was ready for it: for the handshake, or behind it
        self._ended = False
        self._greets = False  # TLS has the transport
        self._lost = False
        self._settled = False  # handed over, refused or given up
        self._grace: asyncio.TimerHandle | None = None  # until a server that stops gives this up

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = plain = cast("asyncio.Transport", transport)
        client = get_remote_addr(plain)
        if client is not None:
            self._peer = unmapped(client[0])
        self._server_state.connections.add(cast("Any", self))  # so that a server that stops stops this too
        self._enter(self._peer)
        self._begin()

    def _enter(self, counted: str | None) -> None:
        """Go on as a connection of this peer, which None keeps out of the count for each peer, or refuse."""
        self._counted = counted
        if not self._terms.census.enter(counted):
            self._fail(Overloaded("connections"))

    def _begin(self) -> None:
        if self._transport is not None and not self._settled:
            self._greeting = self._loop.create_task(self._greet(self._transport))

    def data_received(self, data: bytes) -> None:
        self._early.append(data)

    def eof_received(self) -> None:
        self._ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._greeting is None or not self._greets:
            self._fail(HandshakeFailed(_cause(exc)))  # otherwise the handshake ends too, and knows better why

    def shutdown(self) -> None:
        """The server stops: the handshake may still end within the grace, and then one request is answered."""
        if self._grace is None and not self._settled:
            self._grace = self._loop.call_later(self._terms.limits.drain_grace, self._fail, None)

    def _fail(self, refusal: AccessError | None) -> None:
        if self._settled:
            return
        self._settle()
        if self._greeting is not None:
            self._greeting.cancel()
        if self._transport is not None:
            self._transport.abort()
        if refusal is not None:
            refused = Refused(id=os.urandom(16).hex(), phase="connection", peer=self._peer)
            self._terms.on_refused(refusal, refused)

    def _settle(self) -> None:
        self._settled = True
        if self._grace is not None:
            self._grace.cancel()
        self._terms.census.leave(self._counted)
        self._server_state.connections.discard(cast("Any", self))

    async def _greet(self, plain: asyncio.Transport) -> None:
        limits = self._terms.limits
        handshake = self._loop.create_task(
            self._loop.start_tls(
                plain,
                self,
                self._contexts.context,
                server_side=True,
                ssl_handshake_timeout=limits.header_timeout,
                ssl_shutdown_timeout=limits.linger,
            )
        )
        try:
            await asyncio.sleep(0)  # the task begins: the transport has another protocol, and is paused
            self._pass_on(plain)
            secured = await handshake
        except Exception as error:  # noqa: BLE001 - whatever ends a handshake, there is no connection
            self._fail(HandshakeFailed(_cause(error)))
            return
        finally:
            handshake.cancel()
        if self._settled:
            return
        if secured is None or self._lost:
            self._fail(HandshakeFailed(_cause(None)))
            return
        try:
            self._hand_over(secured)
        except Exception:  # noqa: BLE001 - of a connection that is handed over by halves nobody takes care
            _log.exception("a connection could not be taken over after its handshake")
            secured.abort()

    def _pass_on(self, plain: asyncio.Transport) -> None:
        """Give what has come already to the handshake.

        A transport cannot be kept from reading before its protocol knows it: uvloop begins right after
        `connection_made`. What it has read by now is fed by the interface that every TLS implementation of an event
        loop has, in the turn of the loop after the one in which the implementation learns of its transport.
        """
        protocol = plain.get_protocol()
        self._greets = protocol is not self
        early = b"".join(self._early)
        if not early or not self._greets:
            return
        self._early.clear()
        self._loop.call_soon(_feed, cast("asyncio.BufferedProtocol", protocol), early)

    def _hand_over(self, secured: asyncio.Transport) -> None:
        """Give the connection to the strict protocol, with all that has come on it."""
        peer = _peer_certificate(secured.get_extra_info("ssl_object"))
        inner = self._strict(self._config, self._server_state, self._app_state, self._loop)
        if peer is not None:
            extensions: dict[str, Any] = {**EXTENSIONS, PEER_CERTIFICATE: peer}
            inner.extensions = MappingProxyType(extensions)
        self._brief(inner)
        self._settle()  # it is counted by the other one, before anybody else can be
        secured.set_protocol(inner)
        inner.connection_made(secured)
        if self._grace is not None:
            inner.shutdown()  # before its first byte is read
        if self._early:
            inner.data_received(b"".join(self._early))
        if self._ended:
            inner.eof_received()

    def _brief(self, inner: StrictProtocol) -> None:
        """Tell it what was learnt of the connection before the handshake."""


def _feed(protocol: asyncio.BufferedProtocol, data: bytes) -> None:
    """As a transport would, had it just read this."""
    while data:
        buffer = memoryview(protocol.get_buffer(len(data)))
        piece = data[: len(buffer)]
        buffer[: len(piece)] = piece
        protocol.buffer_updated(len(piece))
        data = data[len(piece) :]


def _peer_certificate(ssl_object: ssl.SSLObject) -> PeerCertificate | None:
    """What the client showed. Nothing is to be read into it: it is a chain that OpenSSL could join to an authority."""
    leaf = ssl_object.getpeercert(binary_form=True)
    if leaf is None:
        return None
    shown = _shown_chain(ssl_object)
    return PeerCertificate((leaf, *(one for one in shown[:_CHAIN] if one != leaf)))


def _shown_chain(ssl_object: ssl.SSLObject) -> list[bytes]:
    public = getattr(ssl_object, "get_unverified_chain", None)
    if public is not None:  # since Python 3.13
        return list(public() or ())
    # Before that the same is there under another name. Without the intermediate certificates a chain that needs them
    # cannot be built: the client is refused.
    inner = getattr(getattr(ssl_object, "_sslobj", None), "get_unverified_chain", None)
    return [] if inner is None else [one.public_bytes(_DER) for one in inner() or ()]


_DER: Final = 2  # _ssl.ENCODING_DER


def _cause(error: Exception | None) -> str:
    """One line for the audit. OpenSSL's own words hold nothing that came over the wire."""
    if error is None:
        return "given up by the client"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "unknown").lower().replace("_", " ")
    if isinstance(error, ConnectionAbortedError | TimeoutError):
        return "not finished in time"
    return getattr(error, "strerror", None) or type(error).__name__
