"""What differs between two policies, as records. Each is what one person would say in one breath: the same change of
many endpoints, or for many callers, is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple, TypeAlias

from ostiary.models import Json

Kind: TypeAlias = Literal["gained", "lost", "changed"]
ObservedKind: TypeAlias = Literal["added", "removed", "extended", "shortened", "kept"]
Effect: TypeAlias = Literal["widening", "narrowing", "unjudged"]
"""`unjudged` may let more through: it counts as a widening."""


class Place(NamedTuple):
    """An endpoint with its method and template; as it is now, or as it was where it is gone."""

    service: str
    endpoint: str
    request: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessChange:
    """What callers may do at endpoints. `before` and `after` are their ways to be allowed there, in words; `wider` and
    `narrower` say what makes it so, where that is not the whole change."""

    kind: Kind
    callers: tuple[str, ...]
    places: tuple[Place, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    widening: bool
    narrowing: bool
    wider: tuple[str, ...] = ()
    narrower: tuple[str, ...] = ()

    def document(self) -> dict[str, Json]:
        return {
            "kind": self.kind,
            "widening": self.widening,
            "narrowing": self.narrowing,
            "callers": list(self.callers),
            "endpoints": [place._asdict() for place in self.places],
            "before": list(self.before),
            "after": list(self.after),
            "wider": list(self.wider),
            "narrower": list(self.narrower),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedChange:
    """A service that is only observed, in either policy, with the instant at which that ends (`2026-12-24T00:00:00Z`).
    `wider` says who or what is let through by it besides."""

    kind: ObservedKind
    service: str
    before: str | None
    after: str | None
    widening: bool
    narrowing: bool
    wider: tuple[str, ...] = ()

    def document(self) -> dict[str, Json]:
        return {**asdict(self), "wider": list(self.wider)}


@dataclass(frozen=True, slots=True, kw_only=True)
class NameChange:
    """A caller's definition, or an endpoint's method and template (then with its `service`). What comes of it for
    anybody's access is told there. `was` is the name before, where it is another."""

    kind: Literal["added", "removed", "changed", "renamed"]
    name: str
    before: str | None
    after: str | None
    service: str | None = None
    was: str | None = None

    def document(self) -> dict[str, Json]:
        where = {} if self.service is None else {"service": self.service}
        was = {} if self.was is None else {"was": self.was}
        return {"kind": self.kind, **where, "name": self.name, **was, "before": self.before, "after": self.after}


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleChange:
    """A rule in Rego, or what else OPA loads."""

    kind: Literal["added", "removed", "changed"]
    rule: str
    effect: Effect

    def document(self) -> dict[str, Json]:
        return {"kind": self.kind, "rule": self.rule, "effect": self.effect}


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two policies; `revision` is None where it was built from sources to be compared."""

    label: str
    revision: str | None

    def document(self) -> dict[str, Json]:
        return {"policy": self.label, "revision": self.revision}


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """Everything that differs, widenings first."""

    old: Side
    new: Side
    access: Sequence[AccessChange]
    rules: Sequence[RuleChange]
    callers: Sequence[NameChange]
    endpoints: Sequence[NameChange]
    observed: Sequence[ObservedChange] = ()

    @property
    def widening(self) -> bool:
        """Whether anything widens, or cannot be judged."""
        widened = [*(each.widening for each in self.observed), *(each.widening for each in self.access)]
        return any(widened) or any(each.effect != "narrowing" for each in self.rules)

    @property
    def empty(self) -> bool:
        """Whether nothing differs."""
        differing = [each for each in self.observed if each.widening or each.narrowing]
        return not (differing or self.access or self.rules or self.callers or self.endpoints)

    def document(self) -> dict[str, Json]:
        """For programs. `ostiary bundle report` reads it."""
        return {
            "kind": "diff",
            "old": self.old.document(),
            "new": self.new.document(),
            "widening": self.widening,
            "observed": [each.document() for each in self.observed],
            "access": [each.document() for each in self.access],
            "rules": [each.document() for each in self.rules],
            "callers": [each.document() for each in self.callers],
            "endpoints": [each.document() for each in self.endpoints],
        }
