"""Putting the question together: target, identity, time, address, grants and prediction in one `AccessRequest`."""

from __future__ import annotations

import math

from ostiary.clock import Clock
from ostiary.exchange import Exchange
from ostiary.interfaces import EndpointPredictor, GrantReader, Prediction
from ostiary.models import AccessRequest, Grant, Identity, Target


class NoGrants:
    """A `GrantReader` where none exist: empty means no."""

    def active(self, issuer: str, subject: str) -> tuple[Grant, ...]:
        return ()


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
        return AccessRequest(
            identity=identity,
            method=exchange.method,
            target=target,
            time=math.floor(self._clock.now()),
            source_ip=exchange.source_ip,
            grants=self._grants.active(identity.issuer, identity.subject),
            endpoint=prediction.endpoint,
            revision=prediction.revision,
        )
