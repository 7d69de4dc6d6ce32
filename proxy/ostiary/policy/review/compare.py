"""Two policies compared by what they let through, whatever they are written like.

Every access of the newer map is looked for in the older one, and the reverse. An access is who (a caller's definition,
not its name), what (the paths of an endpoint, whichever endpoint of the other map they are aimed at), under which
conditions, for which credential. What is not found whole in the older map widens; what is not found whole in the newer
one narrows. Grants name callers and endpoints, so an eligibility is looked for under its own names.

One thing more can widen: who is let through twice gets the stricter credential of the two, and the stricter permission
may be the one that goes away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from ostiary.policy.review.changes import AccessChange, Diff, NameChange, Place, RuleChange, Side
from ostiary.policy.review.judge import Judge, Reason, Ways, covers
from ostiary.policy.review.observed import compare_observed
from ostiary.policy.review.overlap import shared_paths
from ostiary.policy.review.snapshot import Key, Published, Snapshot
from ostiary.policy.review.variants import looser_credential

_Pairs: TypeAlias = Mapping[str, Mapping[str, str]]
"""Service to the endpoints of the newer map, each with what it is in the older."""

_Both: TypeAlias = tuple[str, str, str | None, str | None]
"""Caller, service, the endpoint's name before and after."""


def compare(old: Published, new: Published, *, rules: Sequence[RuleChange] = ()) -> Diff:
    """What `new` changes. `rules` is what was found beside the maps."""
    access, callers, endpoints = compare_maps(old.map, new.map)
    return Diff(
        old=Side(label=old.label, revision=old.revision),
        new=Side(label=new.label, revision=new.revision),
        access=access,
        rules=rules,
        callers=callers,
        endpoints=endpoints,
        observed=compare_observed(old.map, new.map),
    )


def compare_maps(old: Snapshot, new: Snapshot) -> tuple[list[AccessChange], list[NameChange], list[NameChange]]:
    """What changes of accesses, of callers' definitions and of endpoints."""
    pairs = _paired(old, new)
    forth: dict[str, Ways] = {}
    back: dict[str, Ways] = {}
    for service in sorted(old.services.keys() | new.services.keys()):
        if old.patterns(service) != new.patterns(service):
            forth[service], back[service] = _ways(old, new, service)
    newer = Judge(new, old, forth, forward=True)
    older = Judge(old, new, back, forward=False)
    found: dict[_Both, tuple[list[Reason], list[Reason]]] = {}
    backwards = {service: {was: name for name, was in names.items()} for service, names in pairs.items()}
    lost = dict(older.gained())
    for (caller, service, endpoint), reasons in newer.gained():
        before = _paired_name(pairs, service, endpoint)
        found.setdefault((caller, service, before, endpoint), ([], []))[0].extend(reasons)
    for (caller, service, endpoint), reasons in lost.items():
        after = _paired_name(backwards, service, endpoint)
        found.setdefault((caller, service, endpoint, after), ([], []))[1].extend(reasons)
    for (caller, service, endpoint), reason in _unsharpened(old, new, older, lost):
        before = _paired_name(pairs, service, endpoint)
        gained = found.setdefault((caller, service, before, endpoint), ([], []))[0]
        if not gained:
            gained.append(reason)
    return _grouped(old, new, found), _callers(old, new), _endpoints(old, new, pairs)


def _paired(old: Snapshot, new: Snapshot) -> dict[str, dict[str, str]]:
    """Which endpoint is which, where both are not called the same: the one that matches the same, else of its name."""
    pairs: dict[str, dict[str, str]] = {}
    for service in new.services.keys() & old.services.keys():
        before, after = old.patterns(service), new.patterns(service)
        if before == after:
            continue
        names = {pattern: name for name, pattern in before.items()}
        found = {name: names[pattern] for name, pattern in after.items() if pattern in names}
        taken = set(found.values())
        found |= {name: name for name in after if name not in found and name in before and name not in taken}
        pairs[service] = found
    for service in new.services.keys() ^ old.services.keys():
        pairs[service] = {}
    return pairs


def _paired_name(pairs: _Pairs, service: str, endpoint: str) -> str | None:
    return pairs[service].get(endpoint) if service in pairs else endpoint


def _ways(old: Snapshot, new: Snapshot, service: str) -> tuple[Ways, Ways]:
    forth: dict[str, dict[str | None, Sequence[str]]] = {}
    back: dict[str, dict[str | None, Sequence[str]]] = {}
    before, after = old.services.get(service, {}).values(), new.services.get(service, {}).values()
    for (was, now), path in sorted(shared_paths(before, after).items(), key=lambda each: (len(each[1]), each[1])):
        if now is not None:
            forth.setdefault(now, {})[was] = path
        if was is not None:
            back.setdefault(was, {})[now] = path
    return forth, back


def _unsharpened(old: Snapshot, new: Snapshot, older: Judge, lost: Iterable[Key]) -> Iterator[tuple[Key, Reason]]:
    """Accesses whose credential was made stricter by another one, which does so no more."""
    for caller, service, endpoint in lost:
        definition = old.definitions[caller]
        for was in old.variants(caller, service, endpoint):
            if not was.per_call and was.lifetime >= new.longest:
                continue
            for now in older.ways(service, endpoint):
                if now is None:
                    continue
                around = [name for name in new.directory.around(definition) if new.variants(name, service, now)]
                if any(covers(new.variants(name, service, now), was, definition) for name in around):
                    continue
                for holder in new.holders.get((service, now), ()):
                    if new.definitions[holder].meets(definition) and any(
                        any(looser_credential(each, was)) for each in new.variants(holder, service, now)
                    ):
                        text = f"what {caller} had made its credential stricter: {was.in_words()}"
                        yield (holder, service, now), Reason("terms", text)


def _request(snapshot: Snapshot, service: str, endpoint: str) -> str:
    found = snapshot.services[service][endpoint]
    return f"{found.method} {found.path}"


def _told(reasons: Iterable[Reason]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.text for each in reasons if each.text))


class _Same(NamedTuple):
    """What makes changes one for a caller: its ways before and after, and the reasons for what is gained and lost."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    gained: tuple[Reason, ...]
    lost: tuple[Reason, ...]


def _grouped(
    old: Snapshot, new: Snapshot, found: Mapping[_Both, tuple[list[Reason], list[Reason]]]
) -> list[AccessChange]:
    """The same change of several endpoints is one, and then the same of several callers. Widenings first."""
    by_caller: dict[tuple[str, _Same], list[tuple[str, str | None, str | None]]] = {}
    for (caller, service, was, now), (gained, lost) in found.items():
        if not (gained or lost):
            continue
        same = _Same(old.words(caller, service, was), new.words(caller, service, now), tuple(gained), tuple(lost))
        if same.before == same.after and {reason.kind for reason in (*gained, *lost)} == {"caller"}:
            before, after = (each.definitions[caller].in_words() for each in (old, new))
            same = same._replace(before=(before,), after=(after,))
        by_caller.setdefault((caller, same), []).append((service, was, now))
    by_places: dict[tuple[_Same, tuple[Place, ...]], list[str]] = {}
    for (caller, same), at in by_caller.items():
        places = sorted(
            _place(old, service, was) if now is None else _place(new, service, now) for service, was, now in at
        )
        by_places.setdefault((same, tuple(places)), []).append(caller)
    changes = [_change(same, places, callers) for (same, places), callers in by_places.items()]
    return sorted(changes, key=lambda each: (not each.widening, each.callers, each.places, each.kind))


def _place(snapshot: Snapshot, service: str, endpoint: str | None) -> Place:
    return Place(service, str(endpoint), _request(snapshot, service, str(endpoint)))


def _change(same: _Same, places: tuple[Place, ...], callers: Iterable[str]) -> AccessChange:
    wider = _told(same.gained)
    return AccessChange(
        kind="gained" if not same.before else "changed" if same.after else "lost",
        callers=tuple(sorted(callers)),
        places=places,
        before=same.before,
        after=same.after,
        widening=bool(same.gained),
        narrowing=bool(same.lost),
        wider=wider,
        narrower=tuple(text for text in _told(same.lost) if text not in wider),
    )


def _callers(old: Snapshot, new: Snapshot) -> list[NameChange]:
    before, after = old.definitions, new.definitions
    gone = {definition: name for name, definition in before.items() if name not in after}
    found: list[NameChange] = []
    for name in sorted(after):
        definition = after[name]
        if name in before:
            if before[name] != definition:
                words = before[name].in_words(), definition.in_words()
                found.append(NameChange(kind="changed", name=name, before=words[0], after=words[1]))
        elif definition in gone:
            words = (definition.in_words(),) * 2
            found.append(
                NameChange(kind="renamed", name=name, was=gone.pop(definition), before=words[0], after=words[1])
            )
        else:
            found.append(NameChange(kind="added", name=name, before=None, after=definition.in_words()))
    renamed = {each.was for each in found}
    found += [
        NameChange(kind="removed", name=name, before=before[name].in_words(), after=None)
        for name in sorted(before.keys() - after.keys() - renamed)
    ]
    return found


def _endpoints(old: Snapshot, new: Snapshot, pairs: _Pairs) -> list[NameChange]:
    found: list[NameChange] = []
    for service in sorted(pairs):
        before, after, names = old.services.get(service, {}), new.services.get(service, {}), pairs[service]
        patterns = old.patterns(service), new.patterns(service)
        for name in sorted(after):
            was = names.get(name)
            if was is None:
                words = _request(new, service, name)
                found.append(NameChange(kind="added", service=service, name=name, before=None, after=words))
            elif was != name or patterns[0][was] != patterns[1][name]:
                found.append(
                    NameChange(
                        kind="changed" if was == name else "renamed",
                        service=service,
                        name=name,
                        was=None if was == name else was,
                        before=_request(old, service, was),
                        after=_request(new, service, name),
                    )
                )
        found += [
            NameChange(kind="removed", service=service, name=name, before=_request(old, service, name), after=None)
            for name in sorted(before.keys() - set(names.values()))
        ]
    return found
