"""The cache answers what the policy would: random maps, callers, tokens, clocks, grants and bundles, put through a
proxy with every cache and through one with none. And each bug that is planted here is found that way.
"""

from __future__ import annotations

import asyncio
import math
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from ostiary.models import AccessRequest, CachePolicy, Decision, Grant, Identity
from support.soundness import ISSUERS, Asked, LivePolicy, Organisation, Plant, World, live_policy

IDENTITIES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (ISSUERS[0], "web", {}),
    (ISSUERS[1], "web", {}),
    (ISSUERS[0], "web", {"groups": ["support"], "tenant": "acme"}),
    (ISSUERS[0], "ann", {"groups": "support"}),
    (ISSUERS[1], "ann", {"tenant": "acme"}),
    (ISSUERS[1], "ann", {"tenant": ["acme", "zeta"]}),
)
"""Each differs from another one in a single thing."""

ENDPOINTS = {
    "list": "GET /orders",
    "get": "GET /orders/{id}",
    "put": "PUT /orders/{id}",
    "admin": "GET /orders/admin",
    "files": "GET /files/**",
    "special": "GET /files/{owner}/special",
    "tenant": "GET /tenants/{tenant}/items",
}
CALLERS = {
    "web": {"issuer": ISSUERS[0], "subject": "web"},
    "other-web": {"issuer": ISSUERS[1], "subject": "web"},
    "support": {"issuer": ISSUERS[0], "claims": {"groups": "support"}},
    "acme": {"issuer": ISSUERS[1], "subject": "ann", "claims": {"tenant": "acme"}},
}
REQUESTS = (
    *(("GET", "/orders"), ("GET", "/orders?status=open"), ("GET", "/orders?status=shut"), ("GET", "/orders?a+b")),
    *(("GET", "/orders/1"), ("GET", "/orders/2?status=open"), ("PUT", "/orders/1"), ("PUT", "/orders")),
    *(("GET", "/orders/admin"), ("GET", "/orders/Admin"), ("GET", "/files/a/b"), ("GET", "/files/a/special")),
    *(("GET", "/tenants/acme/items"), ("GET", "/tenants/zeta/items"), ("GET", "/nowhere"), ("GET", "/")),
)
SOURCES = ("10.0.0.7", "192.0.2.1", "10.9.9.9")

# The clock starts at 14:13:20 UTC on a Monday. One of these minutes ends soon, whenever that is.
WHEN: tuple[dict[str, Any] | None, ...] = (
    None,
    {"source": ["10.0.0.0/8"]},
    *({"hours": {"from": f"14:{n}", "to": f"14:{n + 1}", "timezone": "UTC"}} for n in (13, 15, 17, 19, 21)),
    {
        "hours": {"from": "16:14", "to": "16:16", "days": ["mon"], "timezone": "Europe/Paris"},
        "source": ["192.0.2.0/24"],
    },
    {"claims": {"tenant": "acme"}},
    {"read_only": True},
    {"query": {"status": ["open"]}},
    {"custom": {"even": {"least": 2}}},
)

# What is stated is true: the rules read the request and nothing else, and what they read is named.
RULES = (
    Organisation(),
    Organisation(
        {
            'deny contains "not from there"': 'input.context.source_ip == "10.9.9.9"',
            'caching := {"deny": {"max_age": 5, "vary": ["source_ip"]}}': "true",
        },
        ("deny",),
    ),
    Organisation(
        {'deny contains "closed"': '["status", "shut"] in input.resource.properties.query'}, ("deny",), reads_query=True
    ),
    Organisation(
        {
            "allow": 'input.subject.properties.claims.tenant == "acme"',
            'caching := {"allow": {"max_age": 5, "vary": []}}': "true",
        },
        ("allow",),
    ),
    Organisation({'deny contains "odd second"': "input.context.time % 2 == 1"}, ("deny",)),
    Organisation(
        {
            'deny contains "odd second"': "input.context.time % 2 == 1",
            'caching := {"deny": {"max_age": 1, "vary": []}}': "true",
        },
        ("deny",),
    ),
)
# A condition of the organisation's, with and without a statement of what it depends on.
EVEN = {'condition("even", argument, request)': "count(request.resource.properties.segments) == argument.least"}
STATED = {'caching := {"even": {"max_age": 4, "vary": ["segments"]}}': "true"}
ORGANISATIONS = (
    *(replace(one, rules={**one.rules, **EVEN}) for one in RULES),
    *(replace(one, rules={**one.rules, **EVEN, **STATED}) for one in RULES if "caching" not in str(one.rules)),
)


permissions = st.lists(
    st.tuples(
        st.sampled_from(sorted(CALLERS)),
        st.sampled_from(sorted(ENDPOINTS)),
        st.sampled_from(WHEN),
        st.sampled_from([False, False, True]),
    ),
    min_size=6,
    max_size=16,
)
eligibilities = st.lists(
    st.tuples(st.sampled_from(["web", "support"]), st.sampled_from(sorted(ENDPOINTS)), st.sampled_from(WHEN[:3])),
    min_size=3,
    max_size=8,
    unique_by=lambda one: one[:2],
)


# Some of these ends come while a test runs; one is long over.
observations = st.sampled_from([None, None, 3, 9, 70, 3600, -60])


def permission_map(
    standing: list[tuple[str, str, dict[str, Any] | None, bool]],
    eligible: list[tuple[str, str, dict[str, Any] | None]],
    observed_until: float | None = None,
) -> dict[str, Any]:
    def entry(caller: str, endpoint: str, when: dict[str, Any] | None) -> dict[str, Any]:
        if endpoint == "tenant":  # whose path says whose it is
            when = {**(when or {}), "path": {"tenant": {"claim": "tenant"}}}
        if endpoint == "put" and when == {"read_only": True}:
            when = None  # it would never hold, which the builder refuses
        return {"caller": caller, "service": "shop", "endpoints": [endpoint], **({"when": when} if when else {})}

    return {
        "services": {"shop": {"endpoints": ENDPOINTS}},
        "callers": CALLERS,
        "permissions": [
            {**entry(*one), "credential": {"lifetime": 30 + number}} | ({"shadow": True} if shadow else {})
            for number, (*one, shadow) in enumerate(standing)
        ],
        "eligible": [{**entry(*one), "approvers": ["acme"], "max_duration": "30m"} for one in eligible],
        **({} if observed_until is None else {"observe": {"shop": {"until": written(observed_until)}}}),
    }


def written(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).isoformat()


some = st.lists(st.integers(0, len(IDENTITIES) - 1), min_size=2, max_size=4, unique=True)


class Proxies(RuleBasedStateMachine):
    """`policy`, `runner` and `plant` are set on a subclass for each run."""

    policy: LivePolicy
    runner: asyncio.Runner
    plant = Plant()

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="ost-"))
        self.world = World(self.policy, self.place, self.plant)
        self.runner.run(self.world.open())
        self.source = SOURCES[0]
        self.lately: list[str] = []  # the tokens that asked last

    def teardown(self) -> None:
        self.runner.run(self.world.close())
        shutil.rmtree(self.place)

    @initialize(
        standing=permissions,
        eligible=eligibilities,
        organisation=st.sampled_from(ORGANISATIONS),
        observed=observations,
        who=some,
    )
    def begin(
        self, standing: Any, eligible: Any, organisation: Organisation, observed: int | None, who: list[int]
    ) -> None:
        self.publish(standing, eligible, organisation, observed)
        self.log_in(who, 300)

    @rule(
        standing=permissions,
        eligible=eligibilities,
        organisation=st.sampled_from(ORGANISATIONS),
        observed=observations,
    )
    def publish(self, standing: Any, eligible: Any, organisation: Organisation, observed: int | None) -> None:
        """`observed` is for how many seconds the service is only observed."""
        until = None if observed is None else math.floor(self.world.clock.now()) + observed
        self.runner.run(self.world.swap(permission_map(standing, eligible, until), organisation))
        self.ask_again()

    @rule(
        number=st.integers(1, 2),
        caller=st.sampled_from(["web", "support"]),
        subject=st.sampled_from(["web", "ann"]),
        endpoints=st.lists(st.sampled_from(sorted(ENDPOINTS)), min_size=3, unique=True),
        duration=st.sampled_from([2, 4, 60, 900]),
    )
    def approve(self, number: int, caller: str, subject: str, endpoints: list[str], duration: int) -> None:
        """A grant, or another version of one that there is."""
        grants, expires_at = self.world.grants.given, int(self.world.clock.now()) + duration
        grants[f"g-{number}"] = Grant(
            id=f"g-{number}",
            caller=caller,
            issuer=ISSUERS[0],
            subject=subject,
            service="shop",
            endpoints=tuple(endpoints),
            expires_at=expires_at,
        )
        self.ask_again()

    @rule(number=st.integers(1, 2))
    def revoke(self, number: int) -> None:
        self.world.grants.given.pop(f"g-{number}", None)
        self.ask_again()

    @rule(seconds=st.sampled_from([0.5, 1, 2, 4, 5, 40, 290]))
    def wait(self, seconds: float) -> None:
        self.world.clock.advance(seconds)
        self.ask_again()

    @rule()
    def wait_for_the_minute(self) -> None:
        self.world.clock.advance(60 - self.world.clock.now() % 60 - 1)
        self.ask_again()
        self.world.clock.advance(1)
        self.ask_again()

    @rule()
    def confirm(self) -> None:
        self.world.freshness.confirmed = self.world.clock.now()

    @rule(who=some, lifetime=st.sampled_from([3, 6, 30, 300]))
    def log_in(self, who: list[int], lifetime: int) -> None:
        """Some get tokens, and ask from now on; those they had before are good as long as they are."""
        fresh = [self.world.token(*IDENTITIES[one], lifetime) for one in who]
        self.lately = (fresh + self.lately)[:4]
        self.ask_again()

    def ask_again(self) -> None:
        """Everything that there is to ask, one after the other, then all at once; each time from another address."""
        self.source = SOURCES[(SOURCES.index(self.source) + 1) % len(SOURCES)]
        self.runner.run(self._compare([Asked(token, *one, self.source) for token in self.lately for one in REQUESTS]))

    async def _compare(self, asked: list[Asked]) -> None:
        expected = await asyncio.gather(*(self.world.uncached(one) for one in asked))
        for one, outcome in zip(asked, expected, strict=True):
            assert (one, await self.world.cached(one)) == (one, outcome)
        together = await asyncio.gather(*(self.world.cached(one) for one in asked * 2))
        assert together == expected * 2


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as one:
        yield one


@pytest.fixture(scope="module")
def policy(opa_binary: Path, runner: asyncio.Runner) -> Iterator[LivePolicy]:
    with (
        tempfile.TemporaryDirectory(prefix="ost-") as place,
        live_policy(opa_binary, Path(place), runner, ORGANISATIONS) as live,
    ):
        yield live


def machine(policy: LivePolicy, runner: asyncio.Runner, plant: Plant) -> type[Proxies]:
    return type("TheseProxies", (Proxies,), {"policy": policy, "runner": runner, "plant": plant})


@pytest.mark.timeout(600)
def test_with_the_caches_and_without_the_answers_are_the_same(policy: LivePolicy, runner: asyncio.Runner) -> None:
    run_state_machine_as_test(
        machine(policy, runner, Plant()), settings=settings(max_examples=12, stateful_step_count=20, deadline=None)
    )


def hidden(**changes: Any) -> Any:
    return lambda request: replace(request, **changes)


def same_issuer(request: AccessRequest) -> AccessRequest:
    return replace(request, identity=changed(request.identity, issuer="https://any.test"))


def same_claims(request: AccessRequest) -> AccessRequest:
    return replace(request, identity=changed(request.identity, claims={}))


def changed(identity: Identity, **changes: Any) -> Identity:
    return replace(identity, **changes)


def same_endpoint(request: AccessRequest) -> AccessRequest:
    return replace(request, endpoint=None)


def forgetting(name: str) -> Any:
    """A policy that does not name one of the things that its answers depend on."""

    def forget(decision: Decision) -> Decision:
        vary = tuple(one for one in decision.cache.vary if one != name)
        return replace(decision, cache=CachePolicy(max_age=decision.cache.max_age, vary=vary))

    return forget


def ageless(decision: Decision) -> Decision:
    """A policy that forgets that something ends with the minute, and all else that it says about time."""
    max_age = 5 if decision.cache.max_age else 0
    return replace(decision, cache=CachePolicy(max_age=max_age, vary=decision.cache.vary))


PLANTS = {
    "vary without the source": Plant(forgets=forgetting("source_ip")),
    "vary without the query": Plant(forgets=forgetting("query")),
    "vary without the segments": Plant(forgets=forgetting("segments")),
    "the minute is forgotten": Plant(forgets=ageless),
    "the grants are not in the key": Plant(blind=hidden(grants=())),
    "the issuer is not in the key": Plant(blind=same_issuer),
    "the claims are not in the key": Plant(blind=same_claims),
    "the endpoint is not in the key": Plant(blind=same_endpoint),
    "the token's end is ignored": Plant(ageless=True),
    "announcements are ignored": Plant(deaf=True),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_found(policy: LivePolicy, runner: asyncio.Runner, name: str) -> None:
    effort = settings(
        max_examples=100,
        stateful_step_count=20,
        deadline=None,
        derandomize=True,  # found once, found always
        phases=[Phase.generate],
        report_multiple_bugs=False,
        print_blob=False,
        database=None,
    )
    random.seed(0)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine(policy, runner, PLANTS[name]), settings=effort)
