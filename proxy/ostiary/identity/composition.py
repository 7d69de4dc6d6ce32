"""Putting the parts together: from issuers' settings to an `Authenticator` with a lifespan."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from ostiary.clock import Clock
from ostiary.exchange import Exchange
from ostiary.identity.cache import CachingAuthenticator
from ostiary.identity.failures import FailureLimit
from ostiary.identity.jwks import JwksStore, KeyHealth
from ostiary.identity.jwt import IssuerRules, JwtAuthenticator
from ostiary.identity.keys import KeyReader
from ostiary.identity.settings import FILE_REFRESH, IssuerSettings, KeyFile, RefreshSettings
from ostiary.identity.sources import source_of
from ostiary.interfaces import Authenticator
from ostiary.models import Identity


class BearerAuthenticator:
    """An `Authenticator` for bearer JWTs that owns the key stores behind it."""

    def __init__(self, *, authenticator: Authenticator, stores: Sequence[JwksStore]) -> None:
        self._authenticator = authenticator
        self._stores = tuple(stores)

    def identify(self, exchange: Exchange) -> Coroutine[Any, Any, Identity]:
        return self._authenticator.identify(exchange)

    async def start(self) -> None:
        """Begin keeping keys. Waits a bounded time for the first ones and never fails: see `ready`."""
        await asyncio.gather(*(store.start() for store in self._stores))

    async def close(self) -> None:
        await asyncio.gather(*(store.close() for store in self._stores))

    @property
    def ready(self) -> bool:
        """Whether every issuer's keys are here and young enough to be used."""
        return all(health.ready for health in self.health())

    def health(self) -> tuple[KeyHealth, ...]:
        return tuple(store.health() for store in self._stores)


def build_authenticator(
    issuers: Sequence[IssuerSettings],
    *,
    clock: Clock,
    refresh: RefreshSettings | None = None,
    cache_capacity: int = 10_000,
    failures: FailureLimit | None = None,
) -> BearerAuthenticator:
    """An authenticator for these issuers; `cache_capacity` 0 verifies every token on every request.

    `failures` replaces the limit on invalid tokens from one address, `refresh` the defaults for fetched and for local
    keys alike.
    Raises `ValueError` for no issuer, or one that occurs twice.
    """
    if not issuers:
        raise ValueError("no issuer: nobody could be identified")
    rules: dict[str, IssuerRules] = {}
    stores: list[JwksStore] = []
    for settings in issuers:
        if settings.issuer in rules:
            raise ValueError(f"issuer {settings.issuer} occurs twice")
        default = FILE_REFRESH if isinstance(settings.keys, KeyFile) else RefreshSettings()
        store = JwksStore(
            issuer=settings.issuer,
            source=source_of(settings.issuer, settings.keys),
            reader=KeyReader(algorithms=settings.algorithms),
            clock=clock,
            refresh=refresh or default,
        )
        stores.append(store)
        rules[settings.issuer] = IssuerRules(settings=settings, keys=store)
    verifying = JwtAuthenticator(issuers=rules, clock=clock, failures=failures)
    if cache_capacity == 0:
        return BearerAuthenticator(authenticator=verifying, stores=stores)
    caching = CachingAuthenticator(authenticator=verifying, clock=clock, capacity=cache_capacity)
    return BearerAuthenticator(authenticator=caching, stores=stores)
