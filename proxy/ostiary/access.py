"""Putting the question together: target, identity, time, address and grants in one `AccessRequest`."""

from __future__ import annotations

import math

from ostiary.clock import Clock
from ostiary.exchange import Exchange
from ostiary.interfaces import GrantReader
from ostiary.models import AccessRequest, Grant, Identity, Target


class NoGrants:
    """A `GrantReader` where none exist: empty means no."""

    def active(self, issuer: str, subject: str) -> tuple[Grant, ...]:
        return ()


class AccessRequestBuilder:
    def __init__(self, *, clock: Clock, grants: GrantReader) -> None:
        self._clock = clock
        self._grants = grants

    def build(self, exchange: Exchange, target: Target, identity: Identity) -> AccessRequest:
        return AccessRequest(
            identity=identity,
            method=exchange.method,
            target=target,
            time=math.floor(self._clock.now()),
            source_ip=exchange.source_ip,
            grants=self._grants.active(identity.issuer, identity.subject),
        )
