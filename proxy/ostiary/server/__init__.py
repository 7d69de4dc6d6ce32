"""The listener: a strict HTTP/1.1 protocol for uvicorn, its limits, and the gate before the application."""

from ostiary.server.behind import strict_protocol
from ostiary.server.gate import Gate, UnsafeListener, refuse_unless_strict
from ostiary.server.limits import ListenerLimits
from ostiary.server.protocol import StrictProtocol
from ostiary.server.proxies import Proxies
from ostiary.server.refused import OnRefused, Refused

__all__ = [
    "Gate",
    "ListenerLimits",
    "OnRefused",
    "Proxies",
    "Refused",
    "StrictProtocol",
    "UnsafeListener",
    "refuse_unless_strict",
    "strict_protocol",
]
