"""The forwarding engine: connection pools, header rules, and the bytes in both directions."""

from __future__ import annotations

from ostiary.upstream.forwarder import Forwarder
from ostiary.upstream.pool import PoolFacts
from ostiary.upstream.settings import TlsSettings, UpstreamSettings

__all__ = ["Forwarder", "PoolFacts", "TlsSettings", "UpstreamSettings"]
