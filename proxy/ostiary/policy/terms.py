"""What a permission says besides who and what: conditions, credential profile, limits; compiled and stored once each.

Compiled conditions are keyed by the end of the reason that they give (`read-only` gives `condition-read-only`):

    source     networks
    hours      {timezone, windows: [{from, to, days}]}: minutes of a day, from inclusive, to exclusive
    claims     claim → the values of which one is enough
    read-only  true
    query      parameter → its values, or "*"
    path       [{variable, place, claim}]: the segment at `place` equals that claim, or is in it

The organisation's own are apart, under `custom`. Beside them stands what answers depend on (`vary`, `hours`), so that
the Rego need not look; and `alone`, where one standing permission without custom conditions is all that there is to
judge. What shadows depend on is in it, too: they are looked at where the others do not allow.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, TypeAlias, get_args

from ostiary.models import Json
from ostiary.policy.model import Conditions, CredentialSettings, Eligibility, Hours
from ostiary.routes import Template

Key: TypeAlias = tuple[str, str, str]
"""Caller, service, endpoint."""

Kind: TypeAlias = Literal["standing", "eligible", "shadow"]
"""What a variant is: it allows, allows with a grant, or is told of and allows nothing."""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

_DAYS: Final = {
    "mon": "Monday",
    "tue": "Tuesday",
    "wed": "Wednesday",
    "thu": "Thursday",
    "fri": "Friday",
    "sat": "Saturday",
    "sun": "Sunday",
}
WEEK: Final = tuple(_DAYS.values())
"""The days as OPA names them."""

_DAY: Final = 24 * 60

DEFAULT_LIFETIME: Final = 60
"""Seconds that a credential lives where the permission says nothing."""

PLAIN: Final = "plain"
"""The id of the terms that say nothing: one standing permission, no conditions, the default credential. The Rego knows
what they are without reading them."""

_DEPENDS_ON: Final = {"source": "source_ip", "query": "query", "path": "segments"}
"""Condition to the name of `vary` it brings. Claims and method are in every cache key; hours end with the minute."""


def canonical(value: Json) -> str:
    """One text for one JSON value: keys sorted, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def conditions_digest(when: Conditions | None) -> str:
    """The last part of a permission's id: eight hexadecimal digits of its conditions, whatever order they are in."""
    return hashlib.sha256(canonical(_written(when)).encode()).hexdigest()[:8]


def _written(when: Conditions | None) -> dict[str, Json]:
    if when is None:
        return {}
    found = when.model_dump(mode="json", by_alias=True, exclude_none=True)
    if not when.read_only:
        del found["read_only"]
    return {name: value if name == "custom" else _unordered(value) for name, value in found.items()}


def _unordered(value: Json) -> Json:
    """Every list of a condition means "one of these"."""
    if isinstance(value, dict):
        return {key: _unordered(entry) for key, entry in value.items()}
    return sorted(value, key=canonical) if isinstance(value, list) else value


def profile_of(settings: CredentialSettings | None) -> dict[str, Json]:
    """The credential profile: seconds that it lives, and whether it is for one call."""
    if settings is None:
        return {"lifetime": DEFAULT_LIFETIME, "per_call": False}
    lifetime = DEFAULT_LIFETIME if settings.lifetime is None else settings.lifetime
    return {"lifetime": lifetime, "per_call": settings.per_call}


def strictest(one: dict[str, Json], other: dict[str, Json]) -> dict[str, Json]:
    """The credential profile of two permissions that hold together."""
    return {
        "lifetime": min(one["lifetime"], other["lifetime"]),
        "per_call": one["per_call"] or other["per_call"],
    }


def limits_of(eligibility: Eligibility) -> dict[str, Json]:
    """Within what a grant can be had. Times are seconds. What is no rule's and nobody's own to approve is left out."""
    given = {"auto_approve": eligibility.auto_approve, "emergency": eligibility.emergency}
    return {name: value for name, value in given.items() if value} | {
        "approvers": eligibility.approvers,
        "approvals": eligibility.approvals,
        "max_duration": eligibility.max_duration,
        "max_uses": eligibility.max_uses,
        "reason_required": eligibility.reason_required,
    }


def compile_conditions(when: Conditions | None, template: Template) -> dict[str, Json]:
    """`conditions`, with `when` and `custom` as the Rego judges them; each left out where there are none."""
    if when is None:
        return {}
    places = dict(template.variables)
    compiled: dict[str, Json] = {
        "source": when.source,
        "hours": None if when.hours is None else _hours(when.hours),
        "claims": when.claims,
        "read-only": when.read_only or None,
        "query": when.query,
        "path": [
            # A variable that this template does not have has no place: the condition then never holds.
            {"variable": variable, "claim": reference.claim}
            | ({"place": places[variable]} if variable in places else {})
            for variable, reference in (when.path or {}).items()
        ]
        or None,
    }
    given = {name: argument for name, argument in compiled.items() if argument is not None}
    conditions = {name: value for name, value in (("when", given), ("custom", when.custom)) if value}
    return {"conditions": conditions}


def _hours(hours: Hours) -> dict[str, Json]:
    days = [_DAYS[day] for day in _DAYS if day in hours.days]
    if hours.start < hours.end:
        windows = [{"from": hours.start, "to": hours.end, "days": days}]
    else:
        # Past midnight, the day is the one it began on. "24 hours ago" would be the wrong day after one of 23.
        following = [WEEK[(WEEK.index(day) + 1) % len(WEEK)] for day in days]
        windows = [{"from": hours.start, "to": _DAY, "days": days}, {"from": 0, "to": hours.end, "days": following}]
    return {"timezone": hours.timezone, "windows": [window for window in windows if window["from"] != window["to"]]}


_Contents: TypeAlias = tuple[tuple[str, ...], ...]
"""The variants of each kind, as text."""

_PLAIN: Final[_Contents] = (
    (
        canonical(
            {"id": conditions_digest(None), "credential": {"lifetime": DEFAULT_LIFETIME, "per_call": False}},
        ),
    ),
    (),
    (),
)


class Terms:
    """Collects the variants of each caller and endpoint, then stores each distinct set of them once."""

    def __init__(self) -> None:
        self._variants: dict[str, Json] = {}
        self._collected: dict[Key, dict[Kind, list[str]]] = defaultdict(lambda: {kind: [] for kind in KINDS})

    def add(self, kind: Kind, key: Key, variant: dict[str, Json]) -> None:
        content = canonical(variant)
        self._variants.setdefault(content, variant)
        self._collected[key][kind].append(content)

    def tables(self, *, alone: bool) -> dict[str, Json]:
        """`access`, caller → service → endpoint → id; `terms`, id → terms. `alone` is true if nobody has a say beside
        the map: terms that are one standing permission are then all there is to see, and say so."""
        access: dict[str, Json] = {}
        ids: dict[_Contents, str] = {}
        for (caller, service, endpoint), found in sorted(self._collected.items()):
            terms = tuple(tuple(found[kind]) for kind in KINDS)
            short = PLAIN if alone and terms == _PLAIN else str(len(ids))
            access.setdefault(caller, {}).setdefault(service, {})[endpoint] = ids.setdefault(terms, short)
        documents = {
            each: terms_document(_kinds([self._variants[content] for content in kind] for kind in terms), alone=alone)
            for terms, each in ids.items()
        }
        return {"access": access, "terms": documents}


def _kinds(variants: Iterable[list[Json]]) -> dict[Kind, list[Json]]:
    return dict(zip(KINDS, variants, strict=True))


def terms_document(kinds: Mapping[Kind, Sequence[Json]], *, alone: bool) -> dict[str, Json]:
    """Terms as they are stored: the variants, and what an answer that looked at them depends on."""
    conditions = [variant.get("conditions", {}) for variants in kinds.values() for variant in variants]
    names = {name for each in conditions for name in each.get("when", {})}
    depends: dict[str, Json] = {
        "vary": sorted({_DEPENDS_ON[name] for name in names if name in _DEPENDS_ON}),
        "hours": "hours" in names,
        "custom": sorted({name for each in conditions for name in each.get("custom", {})}),
    }
    always = {name: depends[name] for name in ("vary", "hours")}
    found: dict[str, Json] = {kind: [*variants] for kind, variants in kinds.items() if variants}
    found |= {name: value for name, value in depends.items() if value} | always
    marks = {
        "depends": any(depends.values()),
        "alone": alone and [len(kinds[kind]) for kind in KINDS] == [1, 0, 0] and not depends["custom"],
    }
    return found | {name: True for name, holds in marks.items() if holds}


def plain_terms() -> dict[str, Json]:
    """The terms whose id is `PLAIN`."""
    return terms_document(_kinds([json.loads(content) for content in kind] for kind in _PLAIN), alone=True)
