"""The access map: who may call what, read off a permission map for people and programs.

What is shown is what is written, role by role resolved; only the policy decides what a request gets.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ostiary.clock import written_instant
from ostiary.errors import ConfigurationError
from ostiary.models import Json
from ostiary.policy import phrases
from ostiary.policy.model import Caller, Conditions, PermissionMap
from ostiary.policy.terms import Kind, compile_conditions, conditions_digest, limits_of, profile_of, strictest
from ostiary.policy.values import written_duration
from ostiary.policy.words import closest, quoted
from ostiary.routes import Endpoint

SHADOW: Final = "shadow: allows nothing"

_NAME_COLUMN: Final = 24
"""The longest endpoint's name, in characters, that its request is written beside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One caller, one endpoint, one set of conditions. Only an eligible one has `limits`; a shadow allows nothing."""

    caller: str
    service: str
    endpoint: Endpoint
    kind: Kind
    digest: str
    when: Conditions | None
    profile: dict[str, Json]
    limits: dict[str, Json] | None = None

    @property
    def permission(self) -> str:
        """The id, as decisions and the audit name it."""
        return f"{self.caller}/{self.service}/{self.endpoint.name}/{self.digest}"

    @property
    def request(self) -> str:
        return f"{self.endpoint.method} {self.endpoint.path}"

    @property
    def conditions(self) -> tuple[str, ...]:
        """Each condition as a phrase."""
        return phrases.conditions(compile_conditions(self.when, self.endpoint.template))

    @property
    def credential(self) -> str:
        kind = "one call" if self.profile["per_call"] else "reusable"
        return f"{kind}, {written_duration(self.profile['lifetime'] * 1000)}"

    @property
    def terms(self) -> str:
        """What an eligible access takes, as a phrase; nothing where it is standing."""
        if self.limits is None:
            return ""
        most = self.limits["max_uses"]
        uses = {None: "", 1: ", for one request"}.get(most, f", for {most} requests")
        alone = self.limits.get("emergency")
        emergency = f", alone for {written_duration(alone * 1000)} in an emergency" if alone else ""
        return f"{phrases.approval(self.limits)}{uses}{emergency}"

    def document(self) -> dict[str, Json]:
        """For programs. Conditions are as `permissions.yaml` has them; times are seconds."""
        return {
            "permission": self.permission,
            "caller": self.caller,
            "service": self.service,
            "endpoint": self.endpoint.name,
            "method": self.endpoint.method,
            "path": self.endpoint.path,
            "kind": self.kind,
            "when": {} if self.when is None else self.when.model_dump(mode="json", by_alias=True, exclude_unset=True),
            "credential": self.profile,
            "limits": self.limits,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessMap:
    """Every access, sorted; the callers that have one or could; the endpoints that nobody may call; and the services
    that are only observed, each with the instant at which that ends."""

    callers: dict[str, Caller]
    accesses: tuple[Access, ...]
    nobody: tuple[tuple[str, Endpoint], ...]
    observed: dict[str, str]

    def document(self) -> dict[str, Json]:
        return {
            "callers": {
                name: caller.model_dump(mode="json", exclude_unset=True) for name, caller in self.callers.items()
            },
            "accesses": [access.document() for access in self.accesses],
            "nobody": [
                {"service": service, "endpoint": endpoint.name, "method": endpoint.method, "path": endpoint.path}
                for service, endpoint in self.nobody
            ],
            "observed": self.observed,
        }


def access_map(policy: PermissionMap, *, caller: str | None = None, service: str | None = None) -> AccessMap:
    """The whole map, or what concerns one caller or one service. Raises `ConfigurationError` for one it has not."""
    for kind, name, known in (("caller", caller, policy.callers), ("service", service, policy.services)):
        if name is not None and name not in known:
            raise ConfigurationError([f"the map has no {kind} {quoted(name)}{closest(name, known)}"])
    every = [*_merged(_standing(policy)), *_eligible(policy)]
    accesses = [each for each in every if caller in (None, each.caller) and service in (None, each.service)]
    shown = {each.caller for each in accesses} if service is not None else policy.callers
    return AccessMap(
        callers={name: policy.callers[name] for name in sorted(shown) if caller in (None, name)},
        accesses=tuple(sorted(accesses, key=lambda each: (each.caller, each.service, each.endpoint.name, each.kind))),
        nobody=() if caller is not None else tuple(_unused(policy, every, service)),
        observed={
            name: written_instant(each.until)
            for name, each in sorted(policy.observe.items())
            if service in (None, name)
        },
    )


def _standing(policy: PermissionMap) -> Iterator[Access]:
    for permission in policy.permissions:
        digest, profile = conditions_digest(permission.when), profile_of(permission.credential)
        for service, endpoint in policy.covered(permission):
            yield Access(
                caller=permission.caller,
                service=service,
                endpoint=endpoint,
                kind="shadow" if permission.shadow else "standing",
                digest=digest,
                when=permission.when,
                profile=profile,
            )


def _eligible(policy: PermissionMap) -> Iterator[Access]:
    for eligibility in policy.eligible:
        digest, profile = conditions_digest(eligibility.when), profile_of(eligibility.credential)
        for name in eligibility.endpoints:
            yield Access(
                caller=eligibility.caller,
                service=eligibility.service,
                endpoint=policy.services[eligibility.service].endpoints[name],
                kind="eligible",
                digest=digest,
                when=eligibility.when,
                profile=profile,
                limits=limits_of(eligibility),
            )


def _merged(accesses: Iterable[Access]) -> list[Access]:
    """Standing permissions with one id are one, with the strictest credential of all: so the compiler has it."""
    kept: dict[tuple[Kind, str], Access] = {}
    for access in accesses:
        key = access.kind, access.permission
        other = kept.setdefault(key, access)
        if other is not access:
            kept[key] = replace(access, profile=strictest(access.profile, other.profile))
    return list(kept.values())


def _unused(policy: PermissionMap, accesses: Sequence[Access], service: str | None) -> Iterator[tuple[str, Endpoint]]:
    used = {(access.service, access.endpoint.name) for access in accesses if access.kind != "shadow"}
    for name, found in sorted(policy.services.items()):
        if service in (None, name):
            yield from ((name, each) for each in found.endpoints.values() if (name, each.name) not in used)


def observed_notes(found: AccessMap) -> list[str]:
    """A sentence for each service that is only observed: more is let through there than the map lists."""
    return [
        f"{service} is only observed until {until}: every caller is let through everywhere"
        for service, until in found.observed.items()
    ]


def describe_caller(caller: Caller) -> str:
    """A caller's definition in one line."""
    if caller.spiffe is not None:
        return caller.spiffe
    proofs = [] if caller.subject is None else [f"subject {phrases.text(caller.subject)}"]
    proofs += [phrases.demanded("claims", caller.claims)] if caller.claims else []
    return ", ".join([phrases.text(caller.issuer), *proofs])


def outline(found: AccessMap, *, width: int) -> str:
    """The map for a person: under each caller its services, under each service the endpoints. `width` in columns."""
    names = [access.endpoint.name for access in found.accesses] + [endpoint.name for _, endpoint in found.nobody]
    column = 6 + max((len(name) for name in names if len(name) <= _NAME_COLUMN), default=0)
    lines: list[str] = []
    for name, caller in found.callers.items():
        lines += ["", *_wrapped(f"{name}  ", describe_caller(caller), width, hang=4)]
        accesses = [each for each in found.accesses if each.caller == name]
        lines += [] if accesses else ["  may call nothing"]
        service = None
        for access in accesses:
            if access.service != service:
                service = access.service
                lines.append(f"  {service}")
            notes = [f"eligible: {access.terms}"] if access.terms else []
            notes += [SHADOW] if access.kind == "shadow" else []
            notes += [f"if {condition}" for condition in access.conditions]
            if access.profile != profile_of(None):
                notes.append(f"credential: {access.credential}")
            lines += _entry(access.endpoint, notes, column=column, width=width)
    if found.nobody:
        lines += ["", "nobody"]
        service = None
        for owner, endpoint in found.nobody:
            if owner != service:
                service = owner
                lines.append(f"  {service}")
            lines += _entry(endpoint, [], column=column, width=width)
    lines += [part for each in observed_notes(found) for part in ("", *_wrapped("", each, width, hang=2))]
    return "\n".join(lines[1:])


def _entry(endpoint: Endpoint, notes: Sequence[str], *, column: int, width: int) -> Iterator[str]:
    name = f"    {endpoint.name}"
    if len(name) + 2 > column:
        yield name
        name = ""
    yield from _wrapped(name.ljust(column), f"{endpoint.method} {endpoint.path}", width, hang=column + 2)
    for note in notes:
        yield from _wrapped(" " * column, note, width, hang=column + 2)


def _wrapped(start: str, text: str, width: int, *, hang: int) -> list[str]:
    return textwrap.wrap(
        text, max(width, hang + 20), initial_indent=start, subsequent_indent=" " * hang, break_on_hyphens=False
    )
