"""A proxy's way from token to decision, twice over one real OPA and one clock: with every cache, and with none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ostiary import assets
from ostiary.access import AccessRequestBuilder, NoPrediction
from ostiary.clock import Clock, ManualClock
from ostiary.decision.authorizer import OpaAuthorizer
from ostiary.decision.batching import BatchingPolicy
from ostiary.decision.cache import CachingAuthorizer
from ostiary.decision.horizon import PolicyHorizon
from ostiary.decision.query import Answer
from ostiary.decision.staleness import StalenessLimit
from ostiary.errors import AccessError
from ostiary.exchange import Exchange
from ostiary.identity import KeyFile, build_authenticator
from ostiary.interfaces import Authenticator, Authorizer
from ostiary.models import AccessRequest, Decision, Grant, Json, Owner
from ostiary.opa.address import OpaAddress
from ostiary.opa.catalog import OpaEndpointCatalog
from ostiary.opa.client import OpaClient
from ostiary.page import Page
from ostiary.policy.compiler import compile_map
from ostiary.policy.model import load_permissions
from ostiary.target import Targets
from support.identity import Issuer, SigningKey, jwks, settings
from support.policy import NOW, OpaServer, serving_rego
from support.shipped import limited_authorizer

ISSUERS = ("https://a.test", "https://b.test")
KEY = SigningKey(algorithm="ES256")
MAX_POLICY_AGE = 300.0


@dataclass(frozen=True)
class Organisation:
    """Rules of an organisation, as `package policy` has them: heads and bodies, and which of the hooks they are."""

    rules: Mapping[str, str] = field(default_factory=dict)
    hooks: tuple[str, ...] = ()
    reads_query: bool = False


class LivePolicy:
    """What OPA holds, replaced by the test, with a revision of the test's own: a `BatchQuery` and an `EndpointSource`.

    It has no bundle, so that another map is there at once, and the revision is told of here. The rules of all
    `organisations` are there from the beginning, since OPA takes long to compile others; data say whose count.
    """

    def __init__(
        self, server: OpaServer, client: OpaClient, place: Path, organisations: Sequence[Organisation]
    ) -> None:
        self._server = server
        self._client = client
        self._place = place
        self._organisations = tuple(organisations)
        self.sequence = 0
        rules = [
            f"{head} if {{\n\tdata.organisation == {number}\n\t{body}\n}}\n"
            for number, organisation in enumerate(self._organisations)
            for head, body in organisation.rules.items()
        ]
        server.put("policies/organisation", "\n".join(["package policy\n", *rules]))

    @property
    def revision(self) -> str:
        return f"{self.sequence}-a"

    def publish(self, permissions: Mapping[str, Any], organisation: Organisation) -> None:
        file = self._place / "permissions.yaml"
        file.write_text(json.dumps(permissions), encoding="utf-8")  # JSON is YAML
        content = compile_map(load_permissions(file), hooks=organisation.hooks, reads_query=organisation.reads_query)
        self._server.put("data/organisation", json.dumps(self._organisations.index(organisation)))
        self._server.put("data/ostiary/map", json.dumps(content))
        self.sequence += 1

    async def query(self, document: Mapping[str, Json]) -> Answer:
        return replace(await self._client.query(document), revision=self.revision)

    async def query_batch(self, documents: Sequence[Mapping[str, Json]]) -> list[Answer]:
        return [replace(one, revision=self.revision) for one in await self._client.query_batch(documents)]

    async def endpoints(self) -> Answer:
        return replace(await self._client.endpoints(), revision=self.revision)


class Confirmed:
    """A `Freshness` for which each bundle was last confirmed when the test said so."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.confirmed = clock.now()

    def age(self, revision: str) -> float:
        return self._clock.now() - self.confirmed


class ScriptedGrants:
    """A `GrantReader` over what the test approves and revokes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.given: dict[str, Grant] = {}

    def active(self, owner: Owner, time: int) -> tuple[Grant, ...]:
        now = self._clock.now()
        mine = [one for one in self.given.values() if (one.issuer, one.subject) == owner]
        return tuple(one for one in sorted(mine, key=lambda one: one.id) if one.expires_at > now)


@dataclass(frozen=True)
class Asked:
    """One request as a client sends it."""

    token: str
    method: str = "GET"
    target: str = "/orders"
    source_ip: str = "10.0.0.7"

    def exchange(self) -> Exchange:
        path, _, query = self.target.partition("?")
        scope = {
            "type": "http",
            "method": self.method,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(b"host", b"shop.test"), (b"authorization", b"Bearer " + self.token.encode())],
            "client": (self.source_ip, 4711),
        }
        return Exchange(scope, _unused, _unused)


async def _unused(*_: object) -> Any:
    raise RuntimeError("deciding reads no body and answers nothing")


Change = Callable[[AccessRequest], AccessRequest]


@dataclass(frozen=True)
class Plant:
    """A bug to be found. `blind` is what the cache does not see of a request, `forgets` what it is not told of an
    answer, `ageless` gives the cache of tokens a clock that stands still."""

    blind: Change | None = None
    forgets: Callable[[Decision], Decision] | None = None
    ageless: bool = False
    deaf: bool = False


_true: ContextVar[AccessRequest] = ContextVar("_true")


class _Blindfold:
    """In front of a cache: hides something of the request, which `_Unblind` behind it gives back to the policy."""

    def __init__(self, authorizer: Authorizer, hide: Change) -> None:
        self._authorizer = authorizer
        self._hide = hide

    async def decide(self, request: AccessRequest) -> Decision:
        _true.set(request)
        return await self._authorizer.decide(self._hide(request))


class _Unblind:
    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer

    async def decide(self, request: AccessRequest) -> Decision:
        return await self._authorizer.decide(_true.get())


class _Forgetting:
    def __init__(self, authorizer: Authorizer, forget: Callable[[Decision], Decision]) -> None:
        self._authorizer = authorizer
        self._forget = forget

    async def decide(self, request: AccessRequest) -> Decision:
        return self._forget(await self._authorizer.decide(request))


@dataclass
class World:
    """One clock, one policy, one set of grants; `cached` and `uncached` answers to the same requests."""

    policy: LivePolicy
    place: Path
    plant: Plant = field(default_factory=Plant)

    def __post_init__(self) -> None:
        self.clock = ManualClock(float(NOW))
        self.grants = ScriptedGrants(self.clock)
        self.page = Page.create(self.place / "page")
        self.freshness = Confirmed(self.clock)
        staleness = StalenessLimit(freshness=self.freshness, most=MAX_POLICY_AGE)
        self.targets = Targets(hosts={"shop.test": "shop"}, own_host="ostiary.test", ports=frozenset({80}))

        horizon = PolicyHorizon(announcements=None if self.plant.deaf else self.page)
        self.catalog = OpaEndpointCatalog(source=self.policy, clock=self.clock, horizon=horizon)
        self.cached_builder = AccessRequestBuilder(clock=self.clock, grants=self.grants, endpoints=self.catalog)
        behind: Authorizer = OpaAuthorizer(
            policy=BatchingPolicy(policy=self.policy, deadline=10), staleness=staleness, horizon=horizon
        )
        if self.plant.forgets is not None:
            behind = _Forgetting(behind, self.plant.forgets)
        if self.plant.blind is not None:
            behind = _Unblind(behind)
        limited = limited_authorizer(authorizer=behind, clock=self.clock, rate=1e6, burst=10**6)
        self.cache = CachingAuthorizer(authorizer=limited, horizon=horizon, staleness=staleness)
        self.cached_authorizer: Authorizer = self.cache
        if self.plant.blind is not None:
            self.cached_authorizer = _Blindfold(self.cache, self.plant.blind)

        self.uncached_builder = AccessRequestBuilder(clock=self.clock, grants=self.grants, endpoints=NoPrediction())
        self.uncached_authorizer = OpaAuthorizer(
            policy=BatchingPolicy(policy=self.policy, deadline=10),
            staleness=staleness,
            horizon=PolicyHorizon(announcements=self.page),
        )
        keys = self.place / "keys"
        keys.write_bytes(jwks(KEY))
        accepted = [settings(KeyFile(path=keys), issuer=issuer, algorithms=("ES256",), leeway=1) for issuer in ISSUERS]
        clock = ManualClock(float(NOW)) if self.plant.ageless else self.clock
        self.cached_authenticator = build_authenticator(accepted, clock=clock)
        self.uncached_authenticator = build_authenticator(accepted, clock=self.clock, cache_capacity=0)
        self.issuers = {issuer: Issuer(clock=self.clock, issuer=issuer, key=KEY) for issuer in ISSUERS}

    async def open(self) -> None:
        await self.cached_authenticator.start()
        await self.uncached_authenticator.start()

    async def close(self) -> None:
        await self.cached_authenticator.close()
        await self.uncached_authenticator.close()
        self.page.close()

    def token(self, issuer: str, subject: str, claims: Mapping[str, Any], lifetime: int) -> str:
        now = math.floor(self.clock.now())
        return self.issuers[issuer].token(claims={"sub": subject, "exp": now + lifetime, **claims})

    async def swap(self, permissions: Mapping[str, Any], organisation: Organisation) -> None:
        """Another bundle, and everybody is told."""
        await asyncio.to_thread(self.policy.publish, permissions, organisation)
        self.freshness.confirmed = self.clock.now()
        self.page.announce(self.policy.revision)
        if not self.plant.deaf:
            await self.catalog.read()

    async def cached(self, asked: Asked) -> Json:
        return await self._outcome(asked, self.cached_authenticator, self.cached_builder, self.cached_authorizer)

    async def uncached(self, asked: Asked) -> Json:
        return await self._outcome(asked, self.uncached_authenticator, self.uncached_builder, self.uncached_authorizer)

    async def _outcome(
        self, asked: Asked, authenticator: Authenticator, builder: AccessRequestBuilder, authorizer: Authorizer
    ) -> Json:
        """What comes of it: a refusal's reason, or the whole decision but for its cacheability."""
        exchange = asked.exchange()
        try:
            target = self.targets.resolve(exchange)
            identity = await authenticator.identify(exchange)
            decision = await authorizer.decide(builder.build(exchange, target, identity))
        except AccessError as refusal:
            return refusal.reason
        document = dict(decision.document)
        document.pop("cache", None)
        return document | {"revision": decision.revision}


@contextlib.contextmanager
def live_policy(
    opa: Path, place: Path, runner: asyncio.Runner, organisations: Sequence[Organisation]
) -> Iterator[LivePolicy]:
    """An OPA with our Rego, and the rules of those organisations."""
    with serving_rego(opa, assets.rego(), place) as server:
        client = OpaClient(address=OpaAddress(socket=place / "opa.sock"), deadline=10)
        runner.run(client.__aenter__())
        try:
            yield LivePolicy(server, client, place, organisations)
        finally:
            runner.run(client.__aexit__(None, None, None))
