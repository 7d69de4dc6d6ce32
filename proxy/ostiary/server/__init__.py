"""The listener: a strict HTTP/1.1 protocol for uvicorn, TLS before it, limits, and the gate before the application."""

from ostiary.server.behind import strict_protocol
from ostiary.server.gate import Gate, UnsafeListener, refuse_unless_strict
from ostiary.server.limits import Census, ListenerLimits
from ostiary.server.passthrough import tls_protocol
from ostiary.server.protocol import StrictProtocol
from ostiary.server.proxies import Proxies
from ostiary.server.refused import OnRefused, Refused
from ostiary.server.tls import ContextSource, TlsFront, server_context

__all__ = [
    "Census",
    "ContextSource",
    "Gate",
    "ListenerLimits",
    "OnRefused",
    "Proxies",
    "Refused",
    "StrictProtocol",
    "TlsFront",
    "UnsafeListener",
    "refuse_unless_strict",
    "server_context",
    "strict_protocol",
    "tls_protocol",
]
