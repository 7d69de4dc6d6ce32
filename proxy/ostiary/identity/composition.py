"""Putting the parts together: from issuers' settings to an `Authenticator` with a lifespan."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from ostiary.clock import Clock
from ostiary.exchange import Exchange
from ostiary.identity.binding import Possession
from ostiary.identity.cache import CachingVerifier
from ostiary.identity.dpop import DpopAuthenticator, DpopSettings, ReplayStore
from ostiary.identity.failures import FailureLimit
from ostiary.identity.jwks import JwksStore, KeyHealth
from ostiary.identity.jwt import BearerAuthenticator, IssuerRules, JwtVerifier, TokenVerifier
from ostiary.identity.keys import KeyReader
from ostiary.identity.memory import KeyMemory
from ostiary.identity.mtls import ActingAuthenticator, CertificateSource
from ostiary.identity.settings import FILE_REFRESH, IssuerSettings, KeyFile, RefreshSettings
from ostiary.identity.sources import source_of
from ostiary.interfaces import Authenticator
from ostiary.models import Identity


class ListenerAuthenticator:
    """The `Authenticator` of a listener, which owns the key stores behind it."""

    def __init__(self, *, authenticator: Authenticator, stores: Sequence[JwksStore]) -> None:
        self._authenticator = authenticator
        self._stores = tuple(stores)

    def identify(self, exchange: Exchange) -> Coroutine[Any, Any, Identity]:
        return self._authenticator.identify(exchange)

    async def start(self) -> None:
        """Begin keeping keys. Waits a bounded time for the first ones and never fails: see `health`."""
        await asyncio.gather(*(store.start() for store in self._stores))

    async def close(self) -> None:
        await asyncio.gather(*(store.close() for store in self._stores))

    def health(self) -> tuple[KeyHealth, ...]:
        """The state of each issuer's keys, in the order of the configuration."""
        return tuple(store.health() for store in self._stores)


def build_authenticator(
    issuers: Sequence[IssuerSettings],
    *,
    clock: Clock,
    refresh: RefreshSettings | None = None,
    cache_capacity: int = 10_000,
    failures: FailureLimit | None = None,
    proofs: Sequence[str] = ("jwt",),
    certificates: CertificateSource | None = None,
    bound_tokens: bool = False,
    dpop: DpopSettings | None = None,
    replays: ReplayStore | None = None,
    memory: Path | None = None,
) -> ListenerAuthenticator:
    """An authenticator for a listener that takes these `proofs`; `cache_capacity` 0 verifies every token on every
    request.

    `certificates` is what knows whose certificate a request came with; proofs other than `jwt` need it. With
    `bound_tokens` no others are taken. `dpop` and `replays` come together: who proves possession of a key, and where
    it is kept that they did. `memory` is the directory where fetched keys are kept for the next worker.
    `failures` replaces the limit on invalid tokens from one address, `refresh` the defaults for fetched and for local
    keys alike.
    Raises `ValueError` for no issuer where tokens are taken, or one that occurs twice.
    """
    demanded = certificates if set(proofs) & {"mtls", "xfcc"} else None
    if demanded is None and set(proofs) != {"jwt"}:
        raise ValueError("a proof by certificate, and nobody who knows certificates")
    if "jwt" not in proofs and demanded is not None:
        return ListenerAuthenticator(authenticator=demanded, stores=())
    if (dpop is None) != (replays is None):
        raise ValueError("proofs of possession and a store of those that were used come together")
    failures = failures or FailureLimit(clock=clock)
    possession = Possession(certificates=certificates, required=bound_tokens)
    rules, stores = _rules(issuers, clock=clock, refresh=refresh, memory=memory)
    tokens: TokenVerifier = JwtVerifier(issuers=rules, clock=clock, failures=failures)
    if cache_capacity > 0:
        tokens = CachingVerifier(verifier=tokens, clock=clock, capacity=cache_capacity)
    subjects: Authenticator = BearerAuthenticator(tokens=tokens, possession=possession)
    if dpop is not None and replays is not None:
        subjects = DpopAuthenticator(
            bearers=subjects,
            tokens=tokens,
            possession=possession,
            store=replays,
            settings=dpop,
            failures=failures,
            clock=clock,
        )
    if demanded is None:
        return ListenerAuthenticator(authenticator=subjects, stores=stores)
    acting = ActingAuthenticator(tokens=subjects, certificates=demanded)
    return ListenerAuthenticator(authenticator=acting, stores=stores)


def _rules(
    issuers: Sequence[IssuerSettings], *, clock: Clock, refresh: RefreshSettings | None, memory: Path | None
) -> tuple[dict[str, IssuerRules], list[JwksStore]]:
    if not issuers:
        raise ValueError("no issuer: nobody could be identified")
    rules: dict[str, IssuerRules] = {}
    stores: list[JwksStore] = []
    for settings in issuers:
        if settings.issuer in rules:
            raise ValueError(f"issuer {settings.issuer} occurs twice")
        local = isinstance(settings.keys, KeyFile)
        default = FILE_REFRESH if local else RefreshSettings()
        store = JwksStore(
            issuer=settings.issuer,
            source=source_of(settings.issuer, settings.keys),
            reader=key_reader(settings),
            clock=clock,
            refresh=refresh or default,
            memory=None if local or memory is None else KeyMemory(memory, issuer=settings.issuer, keys=settings.keys),
        )
        stores.append(store)
        rules[settings.issuer] = IssuerRules(settings=settings, keys=store)
    return rules, stores


def key_reader(settings: IssuerSettings) -> KeyReader:
    """What reads the keys of this issuer."""
    return KeyReader(algorithms=settings.algorithms, use="sig" if settings.use == "jwt" else "jwt-svid")
