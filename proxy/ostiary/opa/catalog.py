"""The route table as the active bundle has it: for credentials, which say what endpoint they are for, and to predict
which endpoint a request is aimed at.

A prediction spares the policy half of its work and gives the decision cache its key. It is a guess that the policy
checks every time it is asked, with its own matcher; both read the same bundle.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final, Protocol

from ostiary.bounded import BoundedMap, Memo
from ostiary.clock import Clock
from ostiary.decision.horizon import PolicyHorizon
from ostiary.decision.query import Answer
from ostiary.errors import CredentialUnavailable, PolicyUnavailable
from ostiary.interfaces import Prediction
from ostiary.models import Json, Target
from ostiary.routes import Endpoint, RouteTable, TemplateError

_log = logging.getLogger("ostiary.opa")

_KEPT: Final = 2
"""Revisions: the active one, and the one before it for requests that were decided just before."""
_MISSING_FOR: Final = 1.0
"""Seconds during which a revision that OPA does not have is not asked for again."""
_MISSING: Final = 16
_PREDICTIONS: Final = 1024  # clients choose what they ask for, so there is a bound


class EndpointSource(Protocol):
    async def endpoints(self) -> Answer:
        """`{service: {endpoint: "GET /orders/{order_id}"}}` with its revision; raises `PolicyUnavailable`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """Implements `interfaces.EndpointTemplate`."""

    method: str
    path: str
    beside: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRoutes:
    """The endpoints of one service by name, and the table that finds them by method and segments."""

    endpoints: Mapping[str, Endpoint]
    table: RouteTable


_UNPREDICTED: Final = Prediction(None, None)


class OpaEndpointCatalog:
    """Implements `interfaces.EndpointCatalog` and `EndpointPredictor` with what `data.ostiary.map.endpoints` holds.

    It is read when a revision is asked for that is not known yet; those who ask meanwhile wait for the same reading,
    but a prediction waits for nothing and is left out. A reading is stored under the revision that came with it,
    whichever was asked for; it tells `horizon` of it too.
    """

    def __init__(self, *, source: EndpointSource, clock: Clock, horizon: PolicyHorizon) -> None:
        self._source = source
        self._clock = clock
        self._horizon = horizon
        self._revisions: BoundedMap[str, Mapping[str, ServiceRoutes]] = BoundedMap(_KEPT)
        self._entries: BoundedMap[tuple[str, str, str], CatalogEntry] = BoundedMap(4096)
        self._missing: BoundedMap[str, float] = BoundedMap(_MISSING)
        self._reading: asyncio.Task[None] | None = None
        self._predicting: tuple[str, Mapping[str, ServiceRoutes]] | None = None  # the table asked last, with its bundle
        self._predictions: Memo[tuple[str, str, tuple[str, ...]], Prediction] = Memo(_PREDICTIONS)  # by that table

    async def read(self) -> None:
        """Read the table before anybody asks. One that is not to be had is asked for again by the first request."""
        try:
            await self._read()
        except CredentialUnavailable as unavailable:
            _log.warning("endpoints are not predicted yet: %s", unavailable.detail)

    def predict(self, target: Target, method: str) -> Prediction:
        """By the table of the bundle that counts. With the first question after a change of bundles it is read."""
        revision = self._horizon.current
        if revision is None:
            return _UNPREDICTED
        if self._predicting is None or self._predicting[0] != revision:
            tables = self._revisions.get(revision)
            if tables is None:
                self._begin_reading(revision)
                return _UNPREDICTED
            self._predicting = revision, tables
            self._predictions.clear()
        key = (target.service, method, target.segments)
        prediction = self._predictions.get(key)
        if prediction is None:
            routes = self._predicting[1].get(target.service)
            endpoint = None if routes is None else routes.table.endpoint(method, target.segments)
            prediction = Prediction(revision, None if endpoint is None else endpoint.name)
            self._predictions.put(key, prediction)
        return prediction

    async def template(self, service: str, endpoint: str, revision: str) -> CatalogEntry:
        """The template of an endpoint; `CredentialUnavailable` where that revision, or it, is not to be had."""
        key = (revision, service, endpoint)
        entry = self._entries.get(key)
        if entry is not None:
            return entry
        routes = (await self._at(revision)).get(service)
        found = None if routes is None else routes.endpoints.get(endpoint)
        if routes is None or found is None:
            raise CredentialUnavailable(f"the bundle {revision} has no endpoint {endpoint!r} of {service!r}")
        entry = CatalogEntry(method=found.method, path=found.path, beside=routes.table.beside(found))
        self._entries.put(key, entry)
        return entry

    async def _at(self, revision: str) -> Mapping[str, ServiceRoutes]:
        known = self._revisions.get(revision)
        if known is not None:
            return known
        if self._may_be_there(revision):
            await self._read()
            known = self._revisions.get(revision)
            if known is not None:
                return known
            self._missing.put(revision, self._clock.monotonic() + _MISSING_FOR)
        raise CredentialUnavailable(f"the endpoints of the bundle {revision} are not to be had")

    def _may_be_there(self, revision: str) -> bool:
        missing_until = self._missing.get(revision)
        return missing_until is None or missing_until <= self._clock.monotonic()

    def _begin_reading(self, revision: str) -> None:
        """Read the table for the requests to come. That OPA is gone, or the bundle already, they hear themselves."""
        if (self._reading is None or self._reading.done()) and self._may_be_there(revision):
            self._shared_reading().add_done_callback(partial(self._read_for, revision))

    def _read_for(self, revision: str, reading: asyncio.Task[None]) -> None:
        if not reading.cancelled() and (error := reading.exception()) is not None:
            _log.warning("endpoints are not predicted: %s", error)
        if revision not in self._revisions:
            self._missing.put(revision, self._clock.monotonic() + _MISSING_FOR)

    def _shared_reading(self) -> asyncio.Task[None]:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._fetch(), name="ostiary-endpoint-catalog")
        return self._reading

    async def _read(self) -> None:
        """Read the table once for all who wait. One who gives up does not end it for the others."""
        try:
            await asyncio.shield(self._shared_reading())
        except PolicyUnavailable as unavailable:
            raise CredentialUnavailable(f"the endpoints cannot be read: {unavailable.detail}") from unavailable

    async def _fetch(self) -> None:
        changes = self._horizon.changes
        answer = await self._source.endpoints()
        if answer.revision is None:
            raise PolicyUnavailable("the route table does not say which bundle it is from")
        # Ten thousand endpoints take a tenth of a second, for which requests are not to wait.
        tables = await asyncio.to_thread(_parse, answer.result)
        self._revisions.put(answer.revision, tables)
        self._horizon.saw(answer.revision, asked=changes)
        self._missing.discard(answer.revision)


def _parse(document: Json) -> Mapping[str, ServiceRoutes]:
    if not isinstance(document, dict):
        raise PolicyUnavailable("the route table is not an object")
    return MappingProxyType({service: _service(service, texts) for service, texts in document.items()})


def _service(service: str, texts: Json) -> ServiceRoutes:
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise PolicyUnavailable(f"the endpoints of {service!r} are not an object of texts")
    try:
        endpoints = {name: Endpoint.parse(name, text) for name, text in texts.items()}
    except TemplateError as error:
        raise PolicyUnavailable(f"an endpoint of {service!r} is outside the grammar: {error}") from error
    table = RouteTable(endpoints.values())
    if table.conflicts:
        raise PolicyUnavailable(f"the endpoints of {service!r} conflict: {table.conflicts[0].message}")
    return ServiceRoutes(endpoints=MappingProxyType(endpoints), table=table)
