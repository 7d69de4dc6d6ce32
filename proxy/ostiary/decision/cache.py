"""The same decisions, sooner: what this answers is what the policy would have answered. A test drives both in parallel.

The rules are those of a shared HTTP cache (RFC 9111), with the policy in the role of the origin: it says how long an
answer may be used again (`max_age`) and on what it depends besides what is in every key (`vary`).

*Key.* Everything that the policy is told about a request stands in the key, or is named in `vary`, or is the time. In
every key: the identity (issuer, subject, method of proof, actor, claims), service, method, endpoint, the grants that
were sent, whole, and the revision. The endpoint stands for the path: it is the proxy's prediction, and every answer was
given by a policy that found the same one. Keys are tuples: concatenated ones have collided elsewhere (OpenFGA
GHSA-h6c8-cww8-35hf).

*Lifetime.* An entry serves the seconds from its question's own to before the least of: `max_age` later (the policy
brings in the end of the minute where hours take part), the token's end, the end of any grant that was sent, the end of
the permission, the instant from which the bundle is too old. Another bundle empties the cache.

*Never kept:* an error; an answer of another revision than it was asked with, or than the one that counts by now; what
names something unknown in `vary`; an allow by a grant that is good for so many uses. Two lists for one key are an error
of the policy, and end caching for that bundle.

*Together.* Requests that miss on everything an answer could depend on wait for one question. What is not kept is used
by nobody but the one who asked.

*For ever suspicious.* One hit in a thousand is asked again, behind the request's back, as of the second in which the
entry was asked for: with all else as it is now, the answer has to be the same. If it is not, caching ends for that
bundle, loudly.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from ostiary.bounded import BoundedMap
from ostiary.decision.horizon import PolicyHorizon
from ostiary.decision.shelf import Entry, Key, Shelf
from ostiary.decision.staleness import StalenessLimit
from ostiary.errors import AccessError
from ostiary.interfaces import Authorizer
from ostiary.models import AccessRequest, Decision, Json

_log = logging.getLogger("ostiary.decision")

VARY: Final[dict[str, Callable[[AccessRequest], object]]] = {
    "query": lambda request: request.target.pairs,
    "segments": lambda request: request.target.segments,
    "source_ip": lambda request: request.source_ip,
}
"""The closed list of what `vary` may name, with what stands in the key for it."""

_SECONDS: Final = 1000  # that are shared
_CHECKED: Final = 1000  # one hit of so many is asked again
_CHECKS: Final = 8  # at a time; a policy that is slow is not asked more

_Names: TypeAlias = tuple[str, ...]
_Outcome: TypeAlias = Entry | AccessError | None
"""Of a question that several wait for: what all may use, what refuses them all, or nothing that can be shared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFacts:
    """Counts since the start, but for `allows` and `denials`, which are the entries kept now.

    `shared` answers were given to requests that waited for another's question. `checked` hits were asked again.
    """

    hits: int
    misses: int
    shared: int
    checked: int
    allows: int
    denials: int


class CachingAuthorizer:
    """An `Authorizer` in front of another one; one per worker.

    `allows` and `denials` are how many of each are kept, apart from each other, so that a flood of requests that are
    denied pushes out nothing that is allowed; `per_identity` is how many of either one identity may have.
    """

    def __init__(
        self,
        *,
        authorizer: Authorizer,
        horizon: PolicyHorizon,
        staleness: StalenessLimit,
        allows: int = 100_000,
        denials: int = 10_000,
        per_identity: int = 10_000,
    ) -> None:
        self._authorizer = authorizer
        self._horizon = horizon
        self._staleness = staleness
        self._allows = Shelf(capacity=allows, per_identity=per_identity)
        self._denials = Shelf(capacity=denials, per_identity=min(per_identity, max(denials // 10, 1)))
        # By key, where `vary` is not empty. One identity has no more of them than there are endpoints.
        self._names: BoundedMap[Key, _Names] = BoundedMap(allows + denials)
        self._seconds: dict[int, int] = {}  # the instants in entries, each once: a hundred thousand share a few
        self._revision: str | None = None
        self._flights: dict[Key, asyncio.Future[_Outcome]] = {}
        self._checks: set[asyncio.Task[None]] = set()
        self._until_check = _next_check()
        self._hits = self._misses = self._shared = self._checked = 0

    def facts(self) -> CacheFacts:
        return CacheFacts(
            hits=self._hits,
            misses=self._misses,
            shared=self._shared,
            checked=self._checked,
            allows=len(self._allows),
            denials=len(self._denials),
        )

    async def decide(self, request: AccessRequest) -> Decision:
        """As the authorizer behind it decides, which raises what this raises."""
        revision = request.revision
        if revision is None or revision != self._counting():
            return await self._authorizer.decide(request)
        primary = _primary(request)
        entry = self._find(primary, request)
        if entry is None:
            return await self._ask(primary, request)
        self._hits += 1
        self._until_check -= 1
        if self._until_check <= 0:
            self._check(entry, request)
        return entry.decision

    def _counting(self) -> str | None:
        """The revision that counts; whatever is kept of another one is thrown away first."""
        current = self._horizon.current
        if current != self._revision:
            self._revision = current
            self._clear()
        return current

    def _clear(self) -> None:
        self._allows.clear()
        self._denials.clear()
        self._names.clear()

    def _second(self, instant: int) -> int:
        if len(self._seconds) > _SECONDS:
            self._seconds.clear()
        return self._seconds.setdefault(instant, instant)

    def _find(self, primary: Key, request: AccessRequest) -> Entry | None:
        # Three outcomes: fresh, ended, absent. An ended one is replaced when the answer is there.
        entry = self._allows.get(primary) or self._denials.get(primary)
        if entry is None:
            names = self._names.get(primary)
            if names is None:
                return None
            key = _full(primary, names, request)
            entry = self._allows.get(key) or self._denials.get(key)
        return entry if entry is not None and entry.serves(request) else None

    async def _ask(self, primary: Key, request: AccessRequest) -> Decision:
        self._misses += 1
        key = _full(primary, tuple(VARY), request)
        flight = self._flights.get(key)
        if flight is not None:
            outcome = await asyncio.shield(flight)
            if isinstance(outcome, AccessError):
                raise _own(outcome)
            if outcome is not None and outcome.serves(request) and request.revision == self._counting():
                self._shared += 1
                return outcome.decision
        if key in self._flights:
            return await self._authorizer.decide(request)
        return await self._fly(key, primary, request)

    async def _fly(self, key: Key, primary: Key, request: AccessRequest) -> Decision:
        """Ask, for whoever comes meanwhile too."""
        flight: asyncio.Future[_Outcome] = asyncio.get_running_loop().create_future()
        self._flights[key] = flight
        outcome: _Outcome = None
        try:
            decision = await self._authorizer.decide(request)
            outcome = self._keep(primary, request, decision)
        except AccessError as refusal:
            outcome = refusal
            raise
        finally:
            del self._flights[key]
            flight.set_result(outcome)
        return decision

    def _keep(self, primary: Key, request: AccessRequest, decision: Decision) -> Entry | None:
        """The entry that this answer becomes, None if it is for this request alone."""
        revision = request.revision
        if decision.revision != revision or revision != self._counting() or decision.cache.max_age < 1:
            return None
        if any(grant.counted for grant in request.grants if grant.id == decision.grant):
            return None
        names = decision.cache.vary
        if not VARY.keys() >= set(names):
            self._horizon.distrust(revision, f"answers depend on {', '.join(names)}, which is not known here")
            return None
        until = self._until(request, decision)
        if until <= request.time or not self._consistent(primary, names):
            return None
        key = _full(primary, names, request) if names else primary
        entry = Entry(key, replace(decision, cached=True), since=self._second(request.time), until=self._second(until))
        shelf, other = self._allows, self._denials
        if decision.allow is not True:
            shelf, other = other, shelf
        other.discard(key)
        if shelf.put(entry) and names:
            self._names.put(primary, names)
        return entry

    def _until(self, request: AccessRequest, decision: Decision) -> int:
        """The Unix second from which the answer serves nobody."""
        ends = [request.time + decision.cache.max_age, request.identity.expires_at]
        ends += [grant.expires_at for grant in request.grants if grant.expires_at > request.time]
        if decision.expires_at is not None:
            ends.append(decision.expires_at)
        remaining = self._staleness.remaining(decision.revision)
        if not remaining > 0:
            return request.time
        if math.isfinite(remaining):
            ends.append(request.time + math.floor(remaining))
        return min(ends)

    def _consistent(self, primary: Key, names: _Names) -> bool:
        """Whether the policy named the same for this key before."""
        known = self._names.get(primary)
        if known is None and (self._allows.get(primary) is not None or self._denials.get(primary) is not None):
            known = ()
        if known is None or known == names:
            return True
        lists = " and on ".join(", ".join(each) or "nothing" for each in (known, names))
        self._horizon.distrust(str(self._revision), f"answers to one question depend on {lists}")
        self._counting()
        return False

    # One hit in a thousand is asked again.

    def _check(self, entry: Entry, request: AccessRequest) -> None:
        self._until_check = _next_check()
        if len(self._checks) < _CHECKS:
            check = asyncio.create_task(self._ask_again(entry, replace(request, time=entry.since)))
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)

    async def _ask_again(self, entry: Entry, request: AccessRequest) -> None:
        try:
            decision = await self._authorizer.decide(request)
        except AccessError:
            return  # no answer says nothing
        revision = decision.revision
        if revision != entry.decision.revision or revision != self._counting():
            return
        self._checked += 1
        differing = _differing(entry.decision, decision)
        if differing:
            what = f"{request.method} of {request.target.service}"
            self._horizon.distrust(revision, f"a kept decision on {what} was not the policy's: {', '.join(differing)}")
            self._counting()


def _primary(request: AccessRequest) -> Key:
    return (
        request.identity.key,
        request.target.service,
        request.method,
        request.endpoint,
        request.grants,
        request.revision,
    )


def _full(primary: Key, names: _Names, request: AccessRequest) -> Key:
    return (*primary, tuple([VARY[name](request) for name in names]))


def _differing(kept: Decision, asked: Decision) -> list[str]:
    """The members in which two answers of the policy differ that should be one, as they go into the audit.

    `max_age` may: an organisation's rules can compute it from the time that it is, and not only from the request's.
    """
    before, now = _lasting(kept), _lasting(asked)
    return [name for name in {**before, **now} if before.get(name) != now.get(name)]


def _lasting(decision: Decision) -> dict[str, Json]:
    document = dict(decision.document)
    cache = document.pop("cache", None)
    return {**document, "vary": cache.get("vary") if isinstance(cache, Mapping) else cache}


def _own(refusal: AccessError) -> AccessError:
    """An exception of one's own: one that is raised in many places grows a traceback in each."""
    own = type(refusal)(refusal.detail)
    own.__cause__ = refusal
    return own


def _next_check() -> int:
    return random.randint(1, 2 * _CHECKED - 1)  # noqa: S311 - which hit is asked again is no secret
