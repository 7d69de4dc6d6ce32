"""Who a caller is, as the compiled map says it, and which identities are two callers at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from ostiary.models import Json
from ostiary.policy import phrases

Claims: TypeAlias = tuple[tuple[str, frozenset[str]], ...]
"""Each claim, sorted, with the values of which it has to have one."""

_MOST_PARTS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What an identity must prove. `subject` is None where claims alone do; a workload's is its SPIFFE ID."""

    issuer: str
    subject: str | None = None
    claims: Claims = ()
    workload: bool = False

    def within(self, other: Definition) -> bool:
        """Whether everybody who is this caller is the other one, too."""
        if (self.issuer, self.workload) != (other.issuer, other.workload):
            return False
        if other.subject is not None and self.subject != other.subject:
            return False
        own = dict(self.claims)
        return all(name in own and own[name] <= values for name, values in other.claims)

    def meets(self, other: Definition) -> bool:
        """Whether somebody could be both. A claim may be a list, so that two values of it exclude nobody."""
        if (self.issuer, self.workload) != (other.issuer, other.workload):
            return False
        return None in (self.subject, other.subject) or self.subject == other.subject

    def parts(self) -> Iterator[Definition]:
        """Callers that are this one together: one for each choice of values. Itself, where those are too many."""
        choices = [[(name, frozenset({value})) for value in sorted(values)] for name, values in self.claims]
        chosen = list(itertools.islice(itertools.product(*choices), _MOST_PARTS + 1))
        if len(chosen) > _MOST_PARTS:
            yield self
        else:
            yield from (replace(self, claims=claims) for claims in chosen)

    def in_words(self) -> str:
        """In one line, as `ostiary map` has it."""
        if self.workload:
            return phrases.text(self.subject)
        proofs = [] if self.subject is None else [f"subject {phrases.text(self.subject)}"]
        claims = {name: sorted(values) for name, values in self.claims}
        proofs += [phrases.demanded("claims", claims)] if claims else []
        return ", ".join([phrases.text(self.issuer), *proofs])


def read_definitions(callers: Mapping[str, Json]) -> dict[str, Definition]:
    """By name. Raises `ValueError` where a name is two callers, which no map that was built here has."""
    found: dict[str, Definition] = {}
    demands = {name: _claims(wanted) for name, wanted in callers["demands"].items()}
    for issuer, named in callers["workloads"].items():
        for subject, names in named.items():
            for name in names:
                _add(found, name, Definition(issuer=issuer, subject=subject, workload=True))
    for issuer, named in callers["subjects"].items():
        for subject, names in named.items():
            for name in names:
                _add(found, name, Definition(issuer=issuer, subject=subject, claims=demands.get(name, ())))
    keys: dict[tuple[str, str, str], list[str]] = {}
    for issuer, claims in callers["claims"].items():
        for claim, by_value in claims.items():
            for value, names in by_value.items():
                for name in names:
                    keys.setdefault((name, issuer, claim), []).append(value)
    for (name, issuer, claim), listed in keys.items():
        known_by: Claims = ((claim, frozenset(listed)),)
        if name in demands and dict(demands[name]).get(claim) != known_by[0][1]:
            raise ValueError(f"the caller {name!r} is not known by what it demands")
        _add(found, name, Definition(issuer=issuer, claims=demands.get(name, known_by)))
    return found


def _claims(wanted: Mapping[str, list[str]]) -> Claims:
    return tuple((name, frozenset(values)) for name, values in sorted(wanted.items()))


def _add(found: dict[str, Definition], name: str, definition: Definition) -> None:
    if name in found:
        raise ValueError(f"the caller {name!r} is there twice")
    found[name] = definition


class Directory:
    """Definitions, found by what they have in common with one."""

    def __init__(self, definitions: Mapping[str, Definition]) -> None:
        self._definitions = definitions
        self._by_key: dict[tuple[str | None, ...], list[str]] = {}
        for name, definition in definitions.items():
            for key in _keys(definition):
                self._by_key.setdefault(key, []).append(name)

    def around(self, definition: Definition) -> list[str]:
        """The names of those that everybody of this definition is, too; sorted."""
        keys: list[tuple[str | None, ...]] = [(definition.issuer, definition.subject)]
        keys += [(definition.issuer, name, value) for name, values in definition.claims for value in values]
        near = {name for key in keys for name in self._by_key.get(key, ())}
        return sorted(name for name in near if definition.within(self._definitions[name]))


def _keys(definition: Definition) -> Iterator[tuple[str | None, ...]]:
    """One of them is a key of everybody who is within the definition."""
    if definition.subject is not None:
        yield definition.issuer, definition.subject
    else:
        claim, values = definition.claims[0]
        yield from ((definition.issuer, claim, value) for value in values)
