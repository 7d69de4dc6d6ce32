"""Wording for the people who read mistakes: quoting what they wrote, and the nearest right name."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import Any, Final

_SHOWN: Final = 80
_COMPARISONS: Final = 200_000


def quoted(value: Any) -> str:
    """What was written, in quotes and on one line; longer than 80 characters it is cut."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, int | float):
        return str(value)
    text = str(value)
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


class Nearest:
    """The nearest right name, as ` (did you mean 'orders'?)`, or nothing where none is near.

    A file may hold a hundred thousand wrong names. What a search may cost in all is bounded; after that,
    mistakes are reported without a suggestion.
    """

    def __init__(self) -> None:
        self._left = _COMPARISONS
        self._found: dict[tuple[str, int], tuple[str, Collection[str]]] = {}

    def __call__(self, name: str, known: Collection[str]) -> str:
        remembered = self._found.get((name, id(known)))
        if remembered is not None:
            return remembered[0]
        if self._left < len(known):
            return ""
        self._left -= len(known)
        found = closest(name, known)
        self._found[name, id(known)] = (found, known)  # held, so that its id stays its own
        return found


def closest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'orders'?)`, or nothing where no known name is near."""
    candidates = {candidate.casefold(): candidate for candidate in sorted(known, reverse=True)}
    near = difflib.get_close_matches(name.casefold(), candidates, n=1, cutoff=0.6)
    return f" (did you mean {quoted(candidates[near[0]])}?)" if near else ""


def either(names: Iterable[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    *init, last = names
    return f"{', '.join(init)} or {last}" if init else last
