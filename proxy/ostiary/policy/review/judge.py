"""What one map lets through that another does not: asked both ways, that is what is gained and what is lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

from ostiary.policy.review.callers import Definition
from ostiary.policy.review.snapshot import Key, Snapshot, reads
from ostiary.policy.review.variants import Variant, became, looser, looser_conditions, looser_credential

Ways: TypeAlias = Mapping[str, Mapping[str | None, Sequence[str]]]
"""An endpoint to those of the other map that a path of its is aimed at there, None for none; each with such a path."""


class Reason(NamedTuple):
    """Why something is let through: it is `new`, its `caller` is wider, it has other `paths`, or its `terms` are."""

    kind: Literal["new", "caller", "paths", "terms"]
    text: str


_NAME: Final = "name"
_OTHER_NAME: Final = Reason("terms", "a grant is for the name of an endpoint, and that is another")
_NEW: Final = Reason("new", "")
_WIDER: Final = Reason("caller", "more identities are the caller")
_NARROWER: Final = Reason("caller", "fewer identities are the caller")


class Judge:
    """Says of each access of `one` why it lets through what `other` does not.

    `ways` is by service; a service that is not in it has the same endpoints, by name, in both. `forward` is true if
    `one` is the newer map: reasons are told as what became of the older.
    """

    def __init__(self, one: Snapshot, other: Snapshot, ways: Mapping[str, Ways], *, forward: bool) -> None:
        self._one = one
        self._other = other
        self._ways = ways
        self._forward = forward
        self._within = {
            name: name in other.definitions and definition.within(other.definitions[name])
            for name, definition in one.definitions.items()
        }
        self._shifted = {name for name in one.definitions if not self._within[name]}
        self._alike: dict[tuple[str, str, bool], bool] = {}
        self._near: dict[str, tuple[str, ...]] = {}
        self._known: dict[tuple[str, str, bool, tuple[str | None, ...]], tuple[Reason, ...]] = {}
        self._around: dict[Definition, list[str]] = {}
        self._approving: dict[tuple[str, str], bool] = {}
        self._found: dict[tuple[str, str, str | None, bool, bool], list[tuple[Variant, tuple[Reason, ...]]]] = {}

    def gained(self) -> Iterator[tuple[Key, tuple[Reason, ...]]]:
        """Each access that is not the same in both, with the reasons; none where all of it is let through there."""
        for caller, by_service in self._one.access.items():
            same_caller = self._within[caller]
            others = self._other.access.get(caller, {})
            for service, endpoints in by_service.items():
                same = same_caller and service not in self._ways
                numbers = others.get(service, {})
                templates = self._one.services[service]
                for endpoint, number in endpoints.items():
                    known = numbers.get(endpoint)
                    if same and known is not None and self._same(number, known, reads(templates[endpoint])):
                        continue
                    yield (caller, service, endpoint), self._reasons(caller, service, endpoint)

    def _same(self, number: str, known: str, reading: bool) -> bool:
        key = (number, known, reading)
        found = self._alike.get(key)
        if found is None:
            mine, theirs = self._one.terms(number, reading=reading), self._other.terms(known, reading=reading)
            found = self._alike[key] = {each.essence for each in mine} == {each.essence for each in theirs} and not any(
                self._shifted.intersection(each.limits.approvers) for each in mine if each.limits is not None
            )
        return found

    def ways(self, service: str, endpoint: str) -> Mapping[str | None, Sequence[str]]:
        """Where the endpoint's paths lead in the other map."""
        if service not in self._ways:
            return {endpoint: ()}
        return self._ways[service].get(endpoint, {})

    def _reasons(self, caller: str, service: str, endpoint: str) -> tuple[Reason, ...]:
        if service in self._ways:
            return self._asked(caller, service, endpoint)
        # Where paths are the same, it comes to what the callers around it have: often the same for many endpoints.
        near = self._near.get(caller)
        if near is None:
            near = self._near[caller] = self._others_of(caller)
        theirs = tuple(None if named is None else named.get(endpoint) for named in self._tables(near, service))
        number = self._one.access[caller][service][endpoint]
        key = (caller, number, reads(self._one.services[service][endpoint]), theirs)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._asked(caller, service, endpoint)
        return found

    def _others_of(self, caller: str) -> tuple[str, ...]:
        """The names of all callers of the other map that have a part in the answer."""
        definition = self._one.definitions[caller]
        parts = [definition, *definition.parts()]
        return tuple(sorted({caller, *(name for part in parts for name in self._callers_around(part))}))

    def _tables(self, names: Iterable[str], service: str) -> Iterator[Mapping[str, str] | None]:
        return (self._other.access.get(name, {}).get(service) for name in names)

    def _asked(self, caller: str, service: str, endpoint: str) -> tuple[Reason, ...]:
        found: dict[Reason, None] = {}
        for there, path in self.ways(service, endpoint).items():
            found |= dict.fromkeys(self._against(caller, service, endpoint, there, path))
        return tuple(found)

    def _against(
        self, caller: str, service: str, endpoint: str, there: str | None, path: Sequence[str]
    ) -> Iterator[Reason]:
        """As far as the paths lead to one endpoint of the other map."""
        template = self._one.services[service][endpoint]
        request = f"{template.method} /{'/'.join(path)}"
        if there is None:
            if self._one.variants(caller, service, endpoint):
                yield Reason("paths", f"{request} was no endpoint" if self._forward else f"{request} is no endpoint")
            return
        definition = self._one.definitions[caller]
        for variant, reasons in self._uncovered(caller, service, endpoint, there):
            if self._covered_by_others(definition, variant, service, endpoint, there, caller):
                continue
            moved = path and self._one.services[service][endpoint].template.pattern != (
                self._other.services[service][there].template.pattern
            )
            if moved:
                yield Reason("paths", f"{request} {'was' if self._forward else 'is'} of {there!r}")
            yield from reasons if not moved else (each for each in reasons if each is not _NEW)

    def _uncovered(
        self, caller: str, service: str, endpoint: str, there: str
    ) -> list[tuple[Variant, tuple[Reason, ...]]]:
        """The variants that the caller of that name does not have there, and what they have more than the nearest."""
        number = self._one.access[caller][service][endpoint]
        known = self._other.access.get(caller, {}).get(service, {}).get(there)
        reading = reads(self._one.services[service][endpoint])
        key = (caller, number, known, reading, endpoint == there)
        found = self._found.get(key)
        if found is None:
            others = () if known is None else self._other.terms(known, reading=reading)
            mine = self._one.terms(number, reading=reading)
            found = self._found[key] = [
                (variant, reasons)
                for variant in mine
                if (reasons := self._compared(caller, variant, others, same_name=endpoint == there))
            ]
        return found

    def _compared(
        self, caller: str, variant: Variant, others: Sequence[Variant], *, same_name: bool
    ) -> tuple[Reason, ...]:
        definition = self._one.definitions[caller]
        if not others:
            return (_NEW,)
        compared = [(each, self._more(definition, variant, each, same_name=same_name)) for each in others]
        nearest, parts = min(
            compared, key=lambda pair: (len(pair[1]), len(variant.said().keys() ^ pair[0].said().keys()))
        )
        ends = (variant, nearest) if self._forward else (nearest, variant)
        reasons = [_OTHER_NAME if part == _NAME else Reason("terms", became(part, *ends)) for part in parts]
        shifted = [] if self._within[caller] else [_WIDER if self._forward else _NARROWER]
        return (*shifted, *reasons)

    def _more(self, definition: Definition, variant: Variant, other: Variant, *, same_name: bool) -> tuple[str, ...]:
        if variant.limits is not None and other.limits is not None and not same_name:
            return (_NAME,)
        return looser(variant, other, known=definition.claims, approvers=self._approves)

    def _covered_by_others(
        self, definition: Definition, variant: Variant, service: str, endpoint: str, there: str, caller: str
    ) -> bool:
        """Whether everybody of the definition is let through as other callers, or as several of them together."""

        def covered(part: Definition) -> bool:
            return any(
                (each.limits is None or (name == caller and endpoint == there))
                and not looser(variant, each, known=part.claims, approvers=self._approves)
                for name in self._callers_around(part)
                for each in self._other.variants(name, service, there)
            )

        if covered(definition):
            return True
        parts = list(definition.parts())
        return len(parts) > 1 and all(map(covered, parts))

    def _callers_around(self, definition: Definition) -> list[str]:
        found = self._around.get(definition)
        if found is None:
            found = self._around[definition] = self._other.directory.around(definition)
        return found

    def _approves(self, approver: str, known: str) -> bool:
        found = self._approving.get((approver, known))
        if found is None:
            mine, theirs = self._one.definitions.get(approver), self._other.definitions.get(known)
            found = mine is not None and theirs is not None and mine.within(theirs)
            self._approving[approver, known] = found
        return found


def covers(variants: Iterable[Variant], one: Variant, definition: Definition) -> bool:
    """Whether one of these standing or eligible variants holds wherever `one` does, with a credential as strict."""
    return any(
        (each.limits is None or one.limits is not None)
        and not any(True for _ in looser_conditions(one, each, known=definition.claims))
        and not any(True for _ in looser_credential(each, one))
        for each in variants
    )
