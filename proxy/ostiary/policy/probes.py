"""The questions whose answers are known when a bundle is built: `data.ostiary.map.probes`.

A proxy asks them when it is given the bundle, and does not use one that answers otherwise: a policy that was put
together wrongly, or that this OPA reads in another way, says yes to everybody or to nobody.

* `allow`: by the first permission without conditions, in the order of the map;
* `deny`: somebody whom the map does not know asks for the same; and the caller of that permission asks for an endpoint
  that it has no permission for, if there is one.

An organisation's own rules may refuse what the map allows. Their answers follow from the question alone, because what
is built has no impure built-in; so the builder asks the bundle itself and keeps the first allow that holds. Without
one there are denials only, and `probe_warnings` says so where it is for those rules.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from ostiary.clock import written_instant
from ostiary.models import AccessRequest, Identity, Json, Target
from ostiary.policy.model import Caller, PermissionMap
from ostiary.routes import Endpoint, Literal, RouteTable, Template, Variable
from ostiary.spiffe import SpiffeId

Ask: TypeAlias = Callable[[Sequence[Json]], Sequence[bool]]
"""What the built bundle says to these questions: whether it allows each."""

SOMEONE: Final = "ostiary-probe"
NOBODY: Final = Identity(issuer="https://ostiary-probe.invalid", subject=SOMEONE, method="jwt", expires_at=0)
"""Whom no map knows: nothing under `.invalid` is ever an issuer."""

_TIME: Final = 1_790_000_000
"""A Monday, 14:13 in UTC. Without a condition it plays no part, but in rules of an organisation's own."""
_SOURCE: Final = "127.0.0.1"
_CANDIDATES: Final = 64
"""Permissions that are tried, where an organisation's rules have a say."""
_PAIRS: Final = 10_000
"""Endpoints that are looked at for one without a permission."""

_SEGMENTS: Final[Mapping[str, Sequence[str]]] = {
    "name": ("probe", "probe-1", "probe-2"),
    "file": ("probe", "probe-1", "probe-2"),
    "text": ("probe", "probe-1", "probe-2"),
    "int": ("7", "17", "4711"),
    "uuid": ("00000000-0000-4000-8000-000000000000", "00000000-0000-4000-8000-000000000001"),
}
_MORE: Final = ("probe", "probe-1", "probe-2")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A request that a permission without conditions allows."""

    identity: Identity
    service: str
    endpoint: Endpoint


def probes(permissions: PermissionMap, *, ask: Ask | None) -> list[Json]:
    """`[{"input": …, "allow": …}, …]`. `ask` is given where an organisation's rules have a say, None where none do."""
    tables = _Tables(permissions)
    found: list[Json] = []
    some = list(itertools.islice(_probed(permissions, tables), 1 if ask is None else _CANDIDATES))
    allowed = _allowed(some, tables, ask)
    if allowed is not None:
        question = _question(tables, allowed.identity, allowed.service, allowed.endpoint)
        found.append({"input": question, "allow": True})
        found += _unpermitted(permissions, tables, allowed.identity)
    for service, endpoint in [(allowed.service, allowed.endpoint)] if allowed else _every(permissions):
        if (question := _question(tables, NOBODY, service, endpoint)) is not None:
            return [*found, {"input": question, "allow": False}]
    return found


def probe_warnings(path: Path, permissions: PermissionMap, found: Sequence[Json]) -> Iterator[str]:
    """That nothing is known to be allowed although the map allows something to somebody without a condition. `path` is
    what is named, `found` what `probes` gave."""
    if any(probe["allow"] for probe in found):
        return
    tables = _Tables(permissions)
    tried = len(list(itertools.islice(_probed(permissions, tables), _CANDIDATES)))
    if tried:
        which = "the only request that was tried" if tried == 1 else f"each of {tried} requests that were tried"
        yield (
            f"{path}: the organisation's rules refuse {which} of those that the map allows without conditions, from "
            f"{_SOURCE} at {written_instant(tables.time)}, with no claims but those that the map demands. If they "
            "refuse everything, no proxy will notice: the bundle has no known allow"
        )


def _probed(permissions: PermissionMap, tables: _Tables) -> Iterator[_Candidate]:
    return (one for one in _candidates(permissions) if tables.segments(one.service, one.endpoint) is not None)


def _allowed(some: Sequence[_Candidate], tables: _Tables, ask: Ask | None) -> _Candidate | None:
    if not some:
        return None
    if ask is None:
        return some[0]
    answers = ask([_question(tables, one.identity, one.service, one.endpoint) for one in some])
    return next((one for one, allow in zip(some, answers, strict=True) if allow), None)


def _candidates(permissions: PermissionMap) -> Iterator[_Candidate]:
    for permission in permissions.permissions:
        if permission.when is None and not permission.shadow:
            for service, endpoint in permissions.covered(permission):
                identity = identity_of(permissions.callers[permission.caller])
                yield _Candidate(identity=identity, service=service, endpoint=endpoint)


def identity_of(caller: Caller) -> Identity:
    """Somebody who is that caller."""
    if caller.spiffe is not None:
        domain = SpiffeId.parse(caller.spiffe).issuer
        return Identity(issuer=domain, subject=caller.spiffe, method="mtls", expires_at=0)
    claims = {name: values[0] for name, values in (caller.claims or {}).items()}
    subject = caller.subject or SOMEONE
    return Identity(issuer=caller.issuer or "", subject=subject, method="jwt", expires_at=0, claims=claims)


def _unpermitted(permissions: PermissionMap, tables: _Tables, identity: Identity) -> list[Json]:
    """About an endpoint that none of the callers whom this identity could be has a permission or an eligibility for."""
    names = {name for name, caller in permissions.callers.items() if _may_be(identity, caller)}
    taken = {
        (service, endpoint.name)
        for one in permissions.permissions
        if one.caller in names
        for service, endpoint in permissions.covered(one)
    }
    taken |= {(one.service, name) for one in permissions.eligible if one.caller in names for name in one.endpoints}
    for service, endpoint in itertools.islice(_every(permissions), _PAIRS):
        if (service, endpoint.name) not in taken:
            question = _question(tables, identity, service, endpoint)
            if question is not None:
                return [{"input": question, "allow": False}]
    return []


def _every(permissions: PermissionMap) -> Iterator[tuple[str, Endpoint]]:
    for name, service in permissions.services.items():
        for endpoint in service.endpoints.values():
            yield name, endpoint


def _may_be(identity: Identity, caller: Caller) -> bool:
    """Whether it can be that caller, with whatever claims: too many callers do no harm here."""
    if caller.spiffe is not None:
        return caller.spiffe == identity.subject
    return caller.issuer == identity.issuer and caller.subject in (None, identity.subject)


def _question(tables: _Tables, identity: Identity, service: str, endpoint: Endpoint) -> Json | None:
    segments = tables.segments(service, endpoint)
    if segments is None:
        return None
    path = "/" + "/".join(segments)
    return AccessRequest(
        identity=identity,
        method=endpoint.method,
        target=Target(service=service, segments=segments, path=path, query=None, pairs=()),
        time=tables.time,
        source_ip=_SOURCE,
        endpoint=endpoint.name,
    ).document()


@dataclass(frozen=True, slots=True)
class _Tables:
    """Paths that are an endpoint's and no other's, and a time at which no service is only observed any more."""

    permissions: PermissionMap
    _known: dict[str, RouteTable] = field(default_factory=dict)

    @property
    def time(self) -> int:
        return max([_TIME, *(observed.until + 1 for observed in self.permissions.observe.values())])

    def segments(self, service: str, endpoint: Endpoint) -> tuple[str, ...] | None:
        """None where each of the few that are tried is the path of another."""
        table = self._known.get(service)
        if table is None:
            table = self._known[service] = RouteTable(self.permissions.services[service].endpoints.values())
        for place in range(max(map(len, _SEGMENTS.values()))):
            segments = _segments(endpoint.template, place)
            if table.endpoint(endpoint.method, segments) is endpoint:
                return segments
        return None


def _segments(template: Template, place: int) -> tuple[str, ...]:
    found = []
    for part in template.parts:
        if isinstance(part, Literal):
            found.append(part.text)
        else:
            values = _SEGMENTS[part.type] if isinstance(part, Variable) else _MORE
            found.append(values[min(place, len(values) - 1)])
    return tuple(found)
