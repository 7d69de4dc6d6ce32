"""One way to be allowed (a variant of terms) as what it lets through, and whether another one lets that through, too.

A variant is a conjunction: each condition is one *part* of it, and so are the credential and the limits of an
eligibility. One lies within another if each of its parts is as strict. Parts are compared as sets of what they accept:
addresses, minutes of the week, values. What cannot be compared so (a custom condition, hours in another zone) is equal
or not.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from ostiary.models import Json
from ostiary.policy import phrases
from ostiary.policy.review.callers import Claims
from ostiary.policy.terms import canonical
from ostiary.policy.values import written_duration
from ostiary.policy.words import either

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Values: TypeAlias = frozenset[str] | None
"""Accepted texts; None is any one."""

_WEEK: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_DAY: Final = 24 * 60
_ALWAYS: Final = (1 << len(_WEEK) * _DAY) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of an eligibility. Durations are in seconds; `max_uses` None is any number, `emergency` 0 that there is none."""

    approvers: tuple[str, ...]
    approvals: int
    max_duration: int
    max_uses: int | None
    reason_required: bool
    auto_approve: bool = False
    emergency: int = 0

    def in_words(self) -> str:
        count = "" if self.approvals == 1 else f"{self.approvals} of "
        uses = {None: "", 1: ", for one request"}.get(self.max_uses, f", for {self.max_uses} requests")
        reason = "" if self.reason_required else ", without a reason"
        lasting = written_duration(self.max_duration * 1000)
        rule = " or by a rule" if self.auto_approve else ""
        alone = f", alone in an emergency for {written_duration(self.emergency * 1000)}" if self.emergency else ""
        return f"approved by {count}{either(self.approvers)}{rule}, for at most {lasting}{uses}{reason}{alone}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What is None or empty demands nothing. `hours` is (zone, a bit for each minute of the week, as it is said);
    `path` holds (place of the segment, claim); `custom` (name, argument). `lifetime` is in seconds."""

    source: tuple[Network, ...] | None = None
    hours: tuple[str, int, str] | None = None
    claims: Claims = ()
    query: tuple[tuple[str, Values], ...] | None = None
    path: frozenset[tuple[int, str]] = frozenset()
    custom: frozenset[tuple[str, str]] = frozenset()
    lifetime: int
    per_call: bool
    limits: Limits | None = None
    variables: tuple[str, ...] = ()
    """How `path` is said."""

    @property
    def essence(self) -> tuple[object, ...]:
        """Equal for variants that let the same through."""
        hours = None if self.hours is None else self.hours[:2]
        conditions = (self.source, hours, self.claims, self.query, self.path, self.custom)
        return (*conditions, self.lifetime, self.per_call, self.limits)

    def said(self) -> dict[str, str]:
        """Each part that demands something, in words."""
        given: dict[str, Json] = {}
        if self.source is not None:
            given["source"] = [str(network) for network in self.source]
        if self.claims:
            given["claims"] = {name: sorted(values) for name, values in self.claims}
        if self.query is not None:
            given["query"] = {name: "*" if values is None else sorted(values) for name, values in self.query}
        found = {name: phrases.demanded(name, argument) for name, argument in given.items()}
        if self.hours is not None:
            found["hours"] = self.hours[2]
        if self.path:
            found["path"] = f"path {', '.join(self.variables)}"
        found |= {f"custom {name}": f"custom {name} {argument}" for name, argument in sorted(self.custom)}
        return found

    def in_words(self) -> str:
        """All of it in one line."""
        kind = "standing" if self.limits is None else f"eligible, {self.limits.in_words()}"
        profile = "one call" if self.per_call else "reusable"
        conditions = [f"if {phrase}" for phrase in self.said().values()]
        lifetime = written_duration(self.lifetime * 1000)
        return "; ".join([kind, *conditions, f"credential {profile}, {lifetime}"])


def read_variants(terms: Mapping[str, Json], *, reading: bool) -> tuple[Variant, ...]:
    """The variants of compiled terms that can hold at all, for an endpoint whose method reads (GET, HEAD, OPTIONS) or
    not. Variants that differ in one list only are one, with both lists' values."""
    listed = [(each, False) for each in terms.get("standing", ())] + [
        (each, True) for each in terms.get("eligible", ())
    ]
    found = [_variant(each, eligible=eligible, reading=reading) for each, eligible in listed]
    return _merged(each for each in found if each is not None)


def _variant(compiled: Mapping[str, Json], *, eligible: bool, reading: bool) -> Variant | None:
    """None where it never holds: another method than its condition has, a variable that the template does not have."""
    conditions = compiled.get("conditions", {})
    when, custom = conditions.get("when", {}), conditions.get("custom", {})
    if when.keys() - _CONDITIONS:
        raise ValueError(f"unknown conditions: {', '.join(sorted(when.keys() - _CONDITIONS))}")
    path = when.get("path", [])
    if ("read-only" in when and not reading) or any("place" not in each for each in path):
        return None
    return Variant(
        source=_networks(when["source"]) if "source" in when else None,
        hours=_hours(when["hours"]) if "hours" in when else None,
        claims=tuple((name, frozenset(values)) for name, values in sorted(when.get("claims", {}).items())),
        query=_query(when["query"]) if "query" in when else None,
        path=frozenset((each["place"], each["claim"]) for each in path),
        variables=tuple(sorted(f"{each['variable']} = the claim {phrases.text(each['claim'])}" for each in path)),
        custom=frozenset((name, canonical(argument)) for name, argument in custom.items()),
        lifetime=compiled["credential"]["lifetime"],
        per_call=compiled["credential"]["per_call"],
        limits=_limits(compiled) if eligible else None,
    )


_CONDITIONS: Final = {"source", "hours", "claims", "read-only", "query", "path"}


def _limits(compiled: Mapping[str, Json]) -> Limits:
    return Limits(
        approvers=tuple(sorted(compiled["approvers"])),
        approvals=compiled["approvals"],
        max_duration=compiled["max_duration"],
        max_uses=compiled["max_uses"],
        reason_required=compiled["reason_required"],
        auto_approve=compiled.get("auto_approve", False),
        emergency=compiled.get("emergency", 0),
    )


def _networks(written: Iterable[str]) -> tuple[Network, ...]:
    """As few as say the same, sorted."""
    return _collapsed(map(ipaddress.ip_network, written))


def _collapsed(networks: Iterable[Network]) -> tuple[Network, ...]:
    listed = list(networks)
    four = [network for network in listed if isinstance(network, ipaddress.IPv4Network)]
    six = [network for network in listed if isinstance(network, ipaddress.IPv6Network)]
    return (*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six))


def _hours(compiled: Mapping[str, Json]) -> tuple[str, int, str] | None:
    """None where it always is that time."""
    minutes = 0
    for window in compiled["windows"]:
        length = ((1 << max(window["to"] - window["from"], 0)) - 1) << window["from"]
        for day in window["days"]:
            minutes |= length << _WEEK.index(day) * _DAY
    return None if minutes == _ALWAYS else (compiled["timezone"], minutes, phrases.demanded("hours", compiled))


def _query(compiled: Mapping[str, Json]) -> tuple[tuple[str, Values], ...]:
    return tuple((name, None if values == "*" else frozenset(values)) for name, values in sorted(compiled.items()))


def _merged(variants: Iterable[Variant]) -> tuple[Variant, ...]:
    """Those that differ in networks only, or in the values of one claim, made one; each once."""
    kept: list[Variant] = []
    for variant in variants:
        one = variant
        while (found := next(((each, both) for each in kept if (both := _union(each, one))), None)) is not None:
            kept.remove(found[0])
            one = found[1]
        kept.append(one)
    return tuple(kept)


def _union(one: Variant, other: Variant) -> Variant | None:
    if one.essence == other.essence:
        return one
    if one.source is not None and other.source is not None:
        joined = _collapsed((*one.source, *other.source))
        if replace(one, source=joined).essence == replace(other, source=joined).essence:
            return replace(one, source=joined)
    if [name for name, _ in one.claims] == [name for name, _ in other.claims]:
        differing = [place for place, pair in enumerate(one.claims) if pair != other.claims[place]]
        if len(differing) == 1:
            place = differing[0]
            name, values = one.claims[place]
            claims = (*one.claims[:place], (name, values | other.claims[place][1]), *one.claims[place + 1 :])
            if replace(one, claims=claims).essence == replace(other, claims=claims).essence:
                return replace(one, claims=claims)
    return None


Within: TypeAlias = Callable[[str, str], bool]
"""Whether everybody who is the first of two approvers is the second."""


def looser(one: Variant, other: Variant, *, known: Claims, approvers: Within) -> tuple[str, ...]:
    """The parts in which `one` lets through what `other` does not; none if it lies within it.

    `known` are claims that every identity has for which `one` is asked.
    """
    return (
        *(["standing"] if one.limits is None and other.limits is not None else []),
        *looser_conditions(one, other, known=known),
        *looser_credential(one, other),
        *(() if one.limits is None or other.limits is None else _looser_limits(one.limits, other.limits, approvers)),
    )


def looser_conditions(one: Variant, other: Variant, *, known: Claims) -> Iterator[str]:
    if other.source is not None and not (one.source is not None and _inside(one.source, other.source)):
        yield "source"
    if other.hours is not None and not (
        one.hours is not None and one.hours[0] == other.hours[0] and not one.hours[1] & ~other.hours[1]
    ):
        yield "hours"
    proved = [*one.claims, *known]
    if not all(any(name == each and has <= values for each, has in proved) for name, values in other.claims):
        yield "claims"
    if other.query is not None and not (one.query is not None and _accepted(one.query, dict(other.query))):
        yield "query"
    if not other.path <= one.path:
        yield "path"
    yield from (f"custom {name}" for name, argument in sorted(other.custom - one.custom))


def looser_credential(one: Variant, other: Variant) -> Iterator[str]:
    if one.lifetime > other.lifetime:
        yield "lifetime"
    if other.per_call and not one.per_call:
        yield "per call"


def _looser_limits(one: Limits, other: Limits, approvers: Within) -> Iterator[str]:
    if not all(any(approvers(name, known) for known in other.approvers) for name in one.approvers):
        yield "approvers"
    if one.approvals < other.approvals:
        yield "approvals"
    if one.max_duration > other.max_duration:
        yield "duration"
    if other.max_uses is not None and (one.max_uses is None or one.max_uses > other.max_uses):
        yield "uses"
    if other.reason_required and not one.reason_required:
        yield "reason"
    if one.auto_approve and not other.auto_approve:
        yield "auto-approval"
    if one.emergency > other.emergency:
        yield "emergency"


def _inside(networks: Iterable[Network], others: Iterable[Network]) -> bool:
    """Both collapsed, so that a network lies in all of the others together only if it lies in one."""
    return all(any(_subnet(network, other) for other in others) for network in networks)


def _subnet(network: Network, other: Network) -> bool:
    if isinstance(network, ipaddress.IPv4Network):
        return isinstance(other, ipaddress.IPv4Network) and network.subnet_of(other)
    return isinstance(other, ipaddress.IPv6Network) and network.subnet_of(other)


def _accepted(query: Iterable[tuple[str, Values]], other: Mapping[str, Values]) -> bool:
    return all(
        name in other and ((accepted := other[name]) is None or (values is not None and values <= accepted))
        for name, values in query
    )


def became(part: str, one: Variant, other: Variant) -> str:
    """In words: what a part was in `other` and is in `one`."""
    was, now = _said(part, other), _said(part, one)
    if not was:
        return f"{now} is demanded"
    return f"{was} became {now}" if now else f"{was} is demanded no more"


def _said(part: str, variant: Variant) -> str:
    if part == "lifetime":
        return f"a credential for {written_duration(variant.lifetime * 1000)}"
    if part == "per call":
        return "a credential for one call" if variant.per_call else "a reusable one"
    if part == "standing":
        return "standing" if variant.limits is None else "eligible"
    limits = variant.limits
    if limits is None or part not in _LIMITS:
        return variant.said().get(part, "")
    return _LIMITS[part](limits)


_LIMITS: Final[Mapping[str, Callable[[Limits], str]]] = {
    "approvers": lambda limits: f"approvers {either(limits.approvers)}",
    "approvals": lambda limits: f"approvals {limits.approvals}",
    "duration": lambda limits: f"at most {written_duration(limits.max_duration * 1000)}",
    "uses": lambda limits: "any number of requests" if limits.max_uses is None else f"requests {limits.max_uses}",
    "reason": lambda limits: "a reason required" if limits.reason_required else "no reason required",
    "auto-approval": lambda limits: "a rule may approve" if limits.auto_approve else "no rule approves",
    "emergency": lambda limits: (
        f"alone for {written_duration(limits.emergency * 1000)} in an emergency" if limits.emergency else "never alone"
    ),
}
