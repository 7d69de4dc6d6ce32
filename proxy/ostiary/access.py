"""Putting the question together: target, identity, time, address, grants and prediction in one `AccessRequest`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ostiary.clock import Clock
from ostiary.errors import GrantExpired
from ostiary.exchange import Exchange
from ostiary.interfaces import EndpointPredictor, GrantReader, Prediction, Underway
from ostiary.models import AccessRequest, Decision, Grant, Identity, Json, Owner, Target


class NoBlocklist:
    """A `Blocklist` where nobody can be blocked."""

    def check(self, identity: Identity) -> None: ...


class NoGrants:
    """A `GrantReader` where none exist: empty means no."""

    def active(self, owner: Owner, time: int) -> tuple[Grant, ...]:
        return ()


class NoKeeper:
    """A `GrantKeeper` where no grant exists. One that was named all the same lets nobody through."""

    async def take(self, underway: Underway) -> None:
        if underway.decision.grant is not None:
            raise GrantExpired


class NoRecourse:
    """A `Recourse` where nothing can be asked for here: a denial says what could be, and of whom."""

    def offered(self, exchange: Exchange, request: AccessRequest, decision: Decision) -> Mapping[str, Json] | None:
        return None if decision.requestable is None else {"requestable": decision.requestable}


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

    def again(self, request: AccessRequest, decision: Decision) -> AccessRequest:
        """As it would be asked if it came now, but for grants: of these the policy is told the one that the exchange
        stands on, as it is now or, where its uses are used up, as it was. Another one lets another request through,
        which takes a use of it."""
        prediction = self._endpoints.predict(request.target, request.method)
        time = math.floor(self._clock.now())
        return AccessRequest(
            identity=request.identity,
            method=request.method,
            target=request.target,
            time=time,
            source_ip=request.source_ip,
            grants=self._standing(request, decision.grant, time),
            endpoint=prediction.endpoint,
            revision=prediction.revision,
        )

    def _standing(self, request: AccessRequest, grant: str | None, time: int) -> tuple[Grant, ...]:
        if grant is None:
            return ()
        active = {one.id: one for one in self._grants.active(request.identity.owner, time)}
        return tuple(active.get(one.id, one) for one in request.grants if one.id == grant)
