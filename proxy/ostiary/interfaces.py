"""One short interface per stage of the request path. `pipeline.py` knows these and nothing behind them.

Each method raises `ostiary.errors.AccessError` (or a subclass) to refuse, and nothing else on purpose.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, TypeAlias

from ostiary.errors import AccessError
from ostiary.exchange import Exchange
from ostiary.models import AccessRequest, Credential, Decision, Grant, Identity, Json, Owner, Target


class TargetResolver(Protocol):
    def resolve(self, exchange: Exchange) -> Target:
        """Turn Host and raw target into a `Target`, or refuse (400, 414, 421)."""


class Concierge(Protocol):
    async def answer(self, exchange: Exchange, target: Target) -> bool:
        """Answer what the proxy answers itself to anyone: a CORS preflight, its `/.well-known/`. True if it did."""


class Authenticator(Protocol):
    async def identify(self, exchange: Exchange) -> Identity:
        """Prove who sends this, or refuse (401)."""


class Blocklist(Protocol):
    def check(self, identity: Identity) -> None:
        """Refuse an identity that is blocked (403), and any while it is not known who is (503). Never waits."""


class GrantReader(Protocol):
    def active(self, owner: Owner, time: int) -> tuple[Grant, ...]:
        """The grants of this identity at that second, in a stable order. Never waits."""


class EndpointPredictor(Protocol):
    def predict(self, target: Target, method: str) -> Prediction:
        """Which endpoint this is aimed at, by the route table of the active bundle. Never waits for one."""


class Prediction(NamedTuple):
    """`revision` is that of the bundle whose route table was asked; None where there is none to be asked."""

    revision: str | None
    endpoint: str | None


class RequestBuilder(Protocol):
    def build(self, exchange: Exchange, target: Target, identity: Identity) -> AccessRequest:
        """Put the question together. Time and grants enter here and nowhere else."""

    def again(self, request: AccessRequest, decision: Decision) -> AccessRequest:
        """The same question as of now, about an exchange that was let through by this decision."""


class Reception(Protocol):
    async def serve(self, exchange: Exchange, request: AccessRequest) -> bool:
        """Answer what the proxy itself offers to who was identified. True if it did."""


class Authorizer(Protocol):
    async def decide(self, request: AccessRequest) -> Decision:
        """Ask the policy. A denial is a `Decision`; no decision is `Unavailable` (503)."""


class Recourse(Protocol):
    def offered(self, exchange: Exchange, request: AccessRequest, decision: Decision) -> Mapping[str, Json] | None:
        """What the body of a denial says of how it can be lifted; None if it cannot be. Never waits."""


class Underway(Protocol):
    """An exchange that was let through, until it is over. `request` and `decision` are what it stands on: the last
    question that was asked about it, and its answer."""

    @property
    def exchange(self) -> Exchange: ...
    @property
    def request(self) -> AccessRequest: ...
    @property
    def decision(self) -> Decision: ...
    @property
    def over(self) -> bool: ...
    def cut(self, refusal: AccessError) -> None:
        """End it by this refusal, wherever it is. The first one counts; what is over is left alone."""


class Warden(Protocol):
    def admit(self, exchange: Exchange, request: AccessRequest, decision: Decision) -> AbstractContextManager[Underway]:
        """What is open in this context was let through by this decision, and is cut when that holds no longer."""


class OpenExchanges(Protocol):
    """What was let through and is not over, for those who know that it may go on no longer.

    Between the decision and the entry here nothing is awaited. So who refuses what is decided from now on, and then
    calls one of these, misses nobody. Both tell how many it concerned.
    """

    def cut(self, concerns: Callable[[Identity], bool], refusal: Callable[[], AccessError]) -> int:
        """End all whose identity it concerns, each by a refusal of its own."""

    def judge(self, concerns: Callable[[Identity], bool]) -> int:
        """Ask the policy again about all whose identity it concerns, soon."""


class GrantKeeper(Protocol):
    async def take(self, underway: Underway) -> None:
        """Let it go on for as long as the grant that allows it, if one does, and take a use where the grant is good
        for so many. Refuse if it has ended or none is left (403), or if that cannot be told (503). A response says
        when the grant ends, if it is soon."""


class EndpointCatalog(Protocol):
    async def template(self, service: str, endpoint: str, revision: str) -> EndpointTemplate:
        """The template of an endpoint as the bundle of that revision has it; `CredentialUnavailable` if unknown."""


class EndpointTemplate(Protocol):
    """What a credential says about its endpoint: `method`, `path` (the template's text), and `beside`, those
    templates of the same service (their text) that narrow which paths this one matches."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def beside(self) -> tuple[str, ...]: ...


class CredentialSwapper(Protocol):
    async def swap(self, request: AccessRequest, decision: Decision) -> Credential:
        """The credential that the upstream receives. None to give is `CredentialUnavailable` (503)."""


Renew: TypeAlias = Callable[[], Awaitable[Credential]]
"""Swap once more, and record the credential like the first: for a request that is sent again."""


class Upstream(Protocol):
    async def forward(
        self, exchange: Exchange, target: Target, identity: Identity, credential: Credential, renew: Renew
    ) -> None:
        """Carry the request there and the response back, streamed; refuse with 502 or 504, or with 429 where this
        identity has its share of what there is for all.

        A credential for one call is sent once: who sends a request again calls `renew` for another one.
        """


class Record(Protocol):
    """What one request leaves in the audit. Leaving its context completes it, however that happens."""

    def resolved(self, target: Target) -> None: ...
    def identified(self, identity: Identity) -> None: ...
    def decided(self, request: AccessRequest, decision: Decision) -> None: ...
    def refused(self, refusal: AccessError) -> None: ...
    async def commit(self, credential: Credential) -> None:
        """Return once the decision is in the audit; `AuditUnavailable` (503) if it cannot be."""


class AuditLog(Protocol):
    def record(self, exchange: Exchange) -> AbstractContextManager[Record]: ...
