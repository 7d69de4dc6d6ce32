"""What the listener knows about the other end of a connection, besides its address: the certificate it showed.

The listener makes one `PeerCertificate` for each connection over which a client certificate came, and puts it into
every scope of that connection. The identity stage judges it, once, and keeps the judgement in it.
"""

from __future__ import annotations

import hashlib
from typing import Final

from ostiary.exchange import Exchange

PEER_CERTIFICATE: Final = "ostiary.peer-certificate"
"""An ASGI extension of the listener's: the `PeerCertificate` of the connection, absent where there is none."""


class PeerCertificate:
    """The chain as it was shown, DER, the client's own certificate first.

    The handshake proved that the client holds the key of the first one, and no more is promised: whom it speaks for,
    and whether anybody vouches for that now, is the identity stage's to say. `verdict` is that stage's own, kept here
    so that it lives and dies with the connection.
    """

    __slots__ = ("chain", "thumbprint", "verdict")

    def __init__(self, chain: tuple[bytes, ...]) -> None:
        if not chain:
            raise ValueError("a peer's certificate is at least one")
        self.chain = chain
        self.thumbprint: Final = hashlib.sha256(chain[0]).digest()
        self.verdict: object = None


def peer_certificate(exchange: Exchange) -> PeerCertificate | None:
    """The certificate of the connection that the exchange is on, if there is one."""
    found = exchange.scope.get("extensions", {}).get(PEER_CERTIFICATE)
    return found if isinstance(found, PeerCertificate) else None
