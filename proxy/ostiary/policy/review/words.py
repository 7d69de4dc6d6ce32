"""A comparison for people: lines to read on a terminal. Each begins with what it is: WIDENS, narrows, or neither."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from ostiary.policy.review.changes import AccessChange, Diff, NameChange, ObservedChange, Place, RuleChange

_SHOWN: Final = 12
"""Endpoints of one service, and callers, that are named; the document names all."""
_COLUMN: Final = 10

_VERBS: Final = {"gained": "gains", "lost": "loses", "changed": "changes at"}


def in_words(diff: Diff) -> list[str]:
    """The comparison as lines. What hangs under a line is indented."""
    lines = [line for each in diff.observed for line in _observed(each)]
    lines += [line for each in diff.access for line in _access(each)]
    lines += [_rule(each) for each in diff.rules]
    lines += [_line("", _name("caller", each)) for each in diff.callers]
    lines += [_line("", _name("endpoint", each)) for each in diff.endpoints]
    return [*lines, *([""] if lines else []), summary(diff)]


def summary(diff: Diff) -> str:
    """In one sentence: whether it lets more through, and how many changes that are."""
    if diff.empty:
        return "no change: both let the same through"
    judged: list[ObservedChange | AccessChange] = [*diff.observed, *diff.access]
    widening = sum(each.widening for each in judged) + sum(each.effect == "widening" for each in diff.rules)
    unjudged = sum(each.effect == "unjudged" for each in diff.rules)
    narrowing = sum(each.narrowing for each in judged) + sum(each.effect == "narrowing" for each in diff.rules)
    counts = ((widening, "widening"), (unjudged, "that cannot be judged"), (narrowing, "narrowing"))
    told = [f"{count} {what}" for count, what in counts if count]
    return f"changes: {', '.join(told)}" if told else "nothing more and nothing less is let through"


def observed_title(change: ObservedChange) -> str:
    """What becomes of a service that is only observed."""
    if change.after is None:
        return f"{change.service} is observed no more, and was until {change.before}"
    was = {"kept": ", as before", "added": ""}.get(change.kind, f", and was until {change.before}")
    return f"{change.service} is only observed until {change.after}{was}: every caller is let through everywhere"


def mark(change: AccessChange) -> str:
    return "WIDENS" if change.widening else "narrows"


def title(change: AccessChange) -> str:
    """Who, and where."""
    who = _some(change.callers)
    verb = _VERBS[change.kind]
    if len(change.callers) > 1:
        verb = {"gains": "gain", "loses": "lose", "changes at": "change at"}[verb]
    return f"{who} {verb} {where(change.places)}"


def where(places: Iterable[Place]) -> str:
    by_service: dict[str, list[str]] = {}
    for place in places:
        by_service.setdefault(place.service, []).append(f"{place.endpoint} ({place.request})")
    return "; ".join(f"{service}: {_some(names)}" for service, names in by_service.items())


def details(change: AccessChange) -> Iterator[tuple[str, str]]:
    """What there is to know besides, each with a word for what it is."""
    if change.kind == "changed" and change.before != change.after:
        yield from (("was", each) for each in change.before)
    if change.kind == "lost":
        yield from (("was", each) for each in change.before)
    elif change.before != change.after:
        yield from (("is", each) for each in change.after)
    yield from (("wider", each) for each in change.wider)
    yield from (("narrower", each) for each in change.narrower)


def rule_mark(change: RuleChange) -> str:
    return {"widening": "WIDENS", "narrowing": "narrows", "unjudged": "UNJUDGED"}[change.effect]


def name_title(kind: str, change: NameChange) -> str:
    return _name(kind, change)


def _observed(change: ObservedChange) -> Iterator[str]:
    yield _line("WIDENS" if change.widening else "narrows" if change.narrowing else "", observed_title(change))
    yield from (_line("", f"  {'wider':9}{text}") for text in change.wider)


def _access(change: AccessChange) -> Iterator[str]:
    yield _line(mark(change), title(change))
    yield from (_line("", f"  {word:9}{text}") for word, text in details(change))


def _rule(change: RuleChange) -> str:
    return _line(rule_mark(change), f"{change.rule} {change.kind}")


def _name(kind: str, change: NameChange) -> str:
    called = change.name if change.service is None else f"{change.service}: {change.name}"
    if change.kind == "renamed":
        return f"{kind} {called} was called {change.was} ({change.after})"
    if change.before is None or change.after is None:
        return f"{kind} {called} {change.kind} ({change.after or change.before})"
    return f"{kind} {called} changed: {change.before} became {change.after}"


def _some(names: Sequence[str]) -> str:
    if len(names) <= _SHOWN:
        return ", ".join(names)
    return f"{', '.join(names[:_SHOWN])} and {len(names) - _SHOWN} more"


def _line(word: str, text: str) -> str:
    return f"{word:{_COLUMN}}{text}".rstrip()
