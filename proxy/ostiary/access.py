"""Putting the question together: target, identity, time, address, grants and prediction in one `AccessRequest`."""

from __future__ import annotations

import math
from contextlib import AbstractAsyncContextManager

from ostiary.clock import Clock
from ostiary.errors import GrantExpired
from ostiary.exchange import Exchange
from ostiary.interfaces import EndpointPredictor, GrantReader, Prediction
from ostiary.models import AccessRequest, Decision, Grant, Identity, Owner, Target


class NoGrants:
    """A `GrantReader` where none exist: empty means no."""

    def active(self, owner: Owner, time: int) -> tuple[Grant, ...]:
        return ()


class NoKeeper:
    """A `GrantKeeper` where no grant exists. One that was named all the same lets nobody through."""

    async def take(self, request: AccessRequest, decision: Decision) -> None:
        raise GrantExpired

    def under(
        self, exchange: Exchange, request: AccessRequest, decision: Decision
    ) -> AbstractAsyncContextManager[None]:
        raise GrantExpired


class NoReception:
    """A `Reception` that offers nothing: the policy is asked, and knows no such service."""

    async def serve(self, exchange: Exchange, request: AccessRequest) -> bool:
        return False


class NoPrediction:
    """An `EndpointPredictor` that knows no routes: the policy finds every endpoint by itself, and nothing is cached."""

    def predict(self, target: Target, method: str) -> Prediction:
        return Prediction(None, None)


class AccessRequestBuilder:
    def __init__(self, *, clock: Clock, grants: GrantReader, endpoints: EndpointPredictor) -> None:
        self._clock = clock
        self._grants = grants
        self._endpoints = endpoints

    def build(self, exchange: Exchange, target: Target, identity: Identity) -> AccessRequest:
        prediction = self._endpoints.predict(target, exchange.method)
        time = math.floor(self._clock.now())
        return AccessRequest(
            identity=identity,
            method=exchange.method,
            target=target,
            time=time,
            source_ip=exchange.source_ip,
            grants=self._grants.active(identity.owner, time),
            endpoint=prediction.endpoint,
            revision=prediction.revision,
        )
