"""The route table as the active bundle has it, for credentials that say which endpoint they are for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from ostiary.bounded import BoundedMap
from ostiary.clock import Clock
from ostiary.decision.query import Answer
from ostiary.errors import CredentialUnavailable, PolicyUnavailable
from ostiary.models import Json
from ostiary.routes import Endpoint, RouteTable, TemplateError

_KEPT: Final = 2
"""Revisions: the active one, and the one before it for requests that were decided just before."""
_MISSING_FOR: Final = 1.0
"""Seconds during which a revision that OPA does not have is not asked for again."""
_MISSING: Final = 16


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


class OpaEndpointCatalog:
    """Implements `interfaces.EndpointCatalog` with what `data.ostiary.map.endpoints` holds.

    It is read when a revision is asked for that is not known yet; those who ask meanwhile wait for the same reading.
    A reading is stored under the revision that came with it, whichever was asked for.
    """

    def __init__(self, *, source: EndpointSource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._revisions: BoundedMap[str, Mapping[str, ServiceRoutes]] = BoundedMap(_KEPT)
        self._entries: BoundedMap[tuple[str, str, str], CatalogEntry] = BoundedMap(4096)
        self._missing: BoundedMap[str, float] = BoundedMap(_MISSING)
        self._reading: asyncio.Task[None] | None = None

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

    async def routes(self, service: str, revision: str) -> ServiceRoutes | None:
        """The routes of a service, None if it has none; `CredentialUnavailable` if the revision is not to be had."""
        return (await self._at(revision)).get(service)

    async def _at(self, revision: str) -> Mapping[str, ServiceRoutes]:
        known = self._revisions.get(revision)
        if known is not None:
            return known
        missing_until = self._missing.get(revision)
        if missing_until is None or missing_until <= self._clock.monotonic():
            await self._read()
            known = self._revisions.get(revision)
            if known is not None:
                return known
            self._missing.put(revision, self._clock.monotonic() + _MISSING_FOR)
        raise CredentialUnavailable(f"the endpoints of the bundle {revision} are not to be had")

    async def _read(self) -> None:
        """Read the table once for all who wait. One who gives up does not end it for the others."""
        reading = self._reading
        if reading is None or reading.done():
            reading = self._reading = asyncio.create_task(self._fetch(), name="ostiary-endpoint-catalog")
        try:
            await asyncio.shield(reading)
        except PolicyUnavailable as unavailable:
            raise CredentialUnavailable(f"the endpoints cannot be read: {unavailable.detail}") from unavailable

    async def _fetch(self) -> None:
        answer = await self._source.endpoints()
        if answer.revision is None:
            raise PolicyUnavailable("the route table does not say which bundle it is from")
        self._revisions.put(answer.revision, _parse(answer.result))
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
