"""Which endpoints of two route tables one path is aimed at: whose paths became whose.

A table is a tree, and a path's way through it depends on few things at each segment: which literal it equals, whether
it looks like one (`ostiary.routes.fold`), which types of variable it matches, and whether `**` covers it. So both trees
are walked together with one segment for each of those cases, and what comes out is exact: every pair that has a path in
common, with one such path.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from ostiary.routes import Endpoint, Literal, Rest, RouteTable, Variable, fold, matches

Pair: TypeAlias = tuple[str | None, str | None]
"""Names of an endpoint before and after, of one method; None where the path has none of that method."""

_COVERED: Final = RouteTable([Endpoint.parse("all", "GET /**")])

_FAMILIES: Final[tuple[Callable[[int], str], ...]] = (
    lambda n: f"{n}",
    lambda n: f"x{n}",
    lambda n: f"0{n}",
    lambda n: f"1{n:020}",
    lambda n: f"00000000-0000-4000-8000-{n:012x}",
    lambda n: f"x{n}-",
    lambda n: f"x{n}.y",
    lambda n: f"x{n}~",
    lambda n: f"x{n}:",
    lambda n: f"x{n}".ljust(200, "x"),
    lambda n: f"x{n}".ljust(200, "-"),
    lambda n: f"x{n}".ljust(300, "x"),
    lambda n: f"x{n}".ljust(300, "~"),
    lambda n: f"x{n}".ljust(300, ":"),
)
"""Segments for every combination of types that there is, as many of each as are wanted; the shortest first."""

_SPELLINGS: Final = 64
"""How many spellings of a literal are tried for one that no literal has."""


def shared_paths(old: Collection[Endpoint], new: Collection[Endpoint]) -> dict[Pair, tuple[str, ...]]:
    """Every pair of endpoints that a path has, before and after, with the segments of one such path."""
    found: dict[Pair, tuple[str, ...]] = {}
    begin = _State(_tree(old), (), False), _State(_tree(new), (), False)
    seen = set()
    waiting: deque[tuple[_State, _State, tuple[str, ...]]] = deque([(*begin, ())])
    while waiting:
        before, after, path = waiting.popleft()
        for segment in _segments(before, after):
            states = before.step(segment), after.step(segment)
            key = (states[0].key, states[1].key)
            if key in seen:
                continue
            seen.add(key)
            way = (*path, segment)
            for pair in _pairs(states[0].reached, states[1].reached):
                found.setdefault(pair, way)
            if segment and not (states[0].ended and states[1].ended):
                waiting.append((*states, way))
    return found


@dataclass(slots=True, eq=False)
class _Node:
    """As in `ostiary.routes`: what the templates say after one beginning."""

    literals: dict[str, _Node] = field(default_factory=dict)
    folded: set[str] = field(default_factory=set)
    variable: _Node | None = None
    kind: str = ""
    here: list[Endpoint] = field(default_factory=list)
    rest: list[Endpoint] = field(default_factory=list)


def _tree(endpoints: Collection[Endpoint]) -> _Node:
    root = _Node()
    for endpoint in endpoints:
        node = root
        for part in endpoint.template.parts:
            if isinstance(part, Literal):
                node.folded.add(fold(part.text))
                node = node.literals.setdefault(part.text, _Node())
            elif isinstance(part, Variable):
                node.kind = part.type
                node.variable = node = node.variable or _Node()
        (node.rest if isinstance(endpoint.template.parts[-1], Rest) else node.here).append(endpoint)
    return root


class _State(NamedTuple):
    """Where a path has come to: the node, if it still has one; the `**` passed last, and whether it covers the path."""

    node: _Node | None
    rest: Sequence[Endpoint]
    covered: bool

    @property
    def key(self) -> tuple[int, int, bool]:
        return id(self.node), id(self.rest) if self.rest else 0, self.covered

    @property
    def ended(self) -> bool:
        """Whether nothing that could follow changes what is reached."""
        return self.node is None and not self.covered

    @property
    def reached(self) -> Sequence[Endpoint]:
        if self.node is not None and self.node.here:
            return self.node.here
        return self.rest if self.covered else ()

    def step(self, segment: str) -> _State:
        node, rest, covered = self.node, self.rest, self.covered and _is_covered(segment)
        if node is None:
            return _State(None, rest, covered)
        child = node.literals.get(segment)
        if child is not None:
            return _State(child, rest, covered)
        if fold(segment) in node.folded:
            return _State(None, rest, covered)
        if node.rest:
            rest, covered = node.rest, _is_covered(segment)
        return _State(node.variable if matches(node.kind, segment) else None, rest, covered)


@lru_cache(maxsize=65536)
def _is_covered(segment: str) -> bool:
    return bool(_COVERED.match((segment,)))


@lru_cache
def _families(kinds: frozenset[str]) -> tuple[Callable[[int], str], ...]:
    """One for each combination of what variables of these types match, and `**`."""
    found: dict[tuple[bool, ...], Callable[[int], str]] = {}
    for family in _FAMILIES:
        segment = family(0)
        found.setdefault((*(matches(kind, segment) for kind in sorted(kinds)), _is_covered(segment)), family)
    return tuple(found.values())


def _segments(before: _State, after: _State) -> Iterator[str]:
    """One segment for each way that leads on from here."""
    nodes = [state.node for state in (before, after) if state.node is not None]
    literals = {text for node in nodes for text in node.literals}
    yield from sorted(literals)
    folded = set().union(*(node.folded for node in nodes))
    for family in _families(frozenset(node.kind for node in nodes if node.kind)):
        yield next(one for one in map(family, itertools.count()) if fold(one) not in folded)
    everywhere = set.intersection(*(node.folded for node in nodes)) if nodes else set()
    # What looks like a literal of each is lost for each in one way, whichever literal it is.
    yield from itertools.islice((text for each in sorted(everywhere) for text in _spellings(each, literals)), 1)
    for text in sorted(folded - everywhere):
        yield from _spellings(text, literals)


def _spellings(folded: str, literals: Collection[str]) -> Iterator[str]:
    """What looks like a literal and is none: as it is folded, and with a capital, which a UUID does not have."""
    if folded and folded not in literals:
        yield folded
    for capitals in (str.upper, _lookalike):
        choices = [dict.fromkeys((letter, capitals(letter))) for letter in reversed(folded)]
        tried = itertools.islice(itertools.product(*choices), _SPELLINGS)
        for text in ("".join(reversed(letters)) for letters in tried):
            if text != folded and text not in literals:
                yield text
                return


def _lookalike(letter: str) -> str:
    return {"s": "\u017f", "i": "\u0131", "k": "\u212a"}.get(letter, letter)


def _pairs(before: Sequence[Endpoint], after: Sequence[Endpoint]) -> Iterator[Pair]:
    old, new = ({endpoint.method: endpoint.name for endpoint in reached} for reached in (before, after))
    for method in old.keys() | new.keys():
        yield old.get(method), new.get(method)
