"""The route index of one service: what `rego/ostiary/routes` looks a path up in.

A template's *key* is its path with `=` before each literal and `{}` with the type for a variable: `=orders/{}int`. Its
*shape* is the `sprintf` format that makes that key of a path's segments (`=%[1]s/{}int`), so templates that differ in
their literals only share one. The `=` is what keeps a segment from spelling a variable's key.

    shapes     at the index of a path's length, [shape, pattern]: the shapes, and what a path of each must match
    rest       [shape, pattern, length]: the shapes of what is before a `**`, the longest first
    templates  key → method → endpoint; a final `**` is spelled so in the key
    guards     key → [place, prefix]: the segment at that place must not be one of the literals that follow that prefix
    siblings   prefix, as a key → the folded literals that follow it

A template's *form* is for who knows already which one it should be. It is a `sprintf` format that makes of the segments
the template's path, the literals its own (`orders/%[2]s`); for a template with `**`, what its path begins with
(`files/`). Endpoint → what there is to look at beside that, by the number of its entries:

    [method, form, pattern]                no literal stands beside a variable of the template
    [method, form, pattern, guards]        one does
    [method, form, pattern, guards, true]  a template with `**`, if no other of the service could match a path of its

A number in place of a name would find a name that is spelled like it, so an endpoint that has such a name has no form.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from ostiary.models import Json
from ostiary.routes import VARIABLE_TYPES, Endpoint, Literal, Part, Rest, Variable, fold

_TEXT: Final = r"[^\p{C}\p{Z}/\\;%?#]"
_UNDOTTED: Final = r"[^\p{C}\p{Z}/\\;%?#.]"

_PATTERNS: Final[dict[str, str]] = {
    **VARIABLE_TYPES,
    # As there, but for the dot segments, which RE2 can exclude only by saying what else there is.
    "text": rf"(?:{_UNDOTTED}{_TEXT}{{0,255}}|\.{_UNDOTTED}{_TEXT}{{0,254}}|\.\.{_TEXT}{{1,254}})",
}

_REST: Final = r"(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\.[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\.\.[A-Za-z0-9._~-]+)"
"""A segment that `**` stands for: unreserved characters (RFC 3986 section 2.3), and no dot segment."""

_UNUSED: Final = "%.0[1]s"
"""Prints nothing. A format without a verb would have Go append `%!(EXTRA ...)`."""

_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
"""A number of JSON (RFC 8259 section 6)."""

_VARIABLE: Final = "{}"
_REST_OF_IT: Final = Rest().pattern

_Tree: TypeAlias = dict[str, "_Tree"]


def route_index(endpoints: Iterable[Endpoint]) -> dict[str, Json]:
    """The index of endpoints that stand in one table without a conflict (`ostiary.routes.RouteTable`)."""
    listed = tuple(endpoints)
    siblings = _siblings(listed)
    shapes: dict[int, dict[str, str]] = defaultdict(dict)
    rest: dict[tuple[int, str], str] = {}
    templates: dict[str, dict[str, str]] = defaultdict(dict)
    guards: dict[str, Json] = {}
    for endpoint in listed:
        parts = endpoint.template.parts
        key = _key(parts)
        templates[key][endpoint.method] = endpoint.name
        if endpoint.template.rest:
            rest[1 - len(parts), _shape(parts)] = _pattern(parts)
        else:
            shapes[len(parts)][_shape(parts)] = _pattern(parts)
        if found := _guards(parts, siblings):
            guards[key] = found
    return {
        "shapes": [
            [[*pair] for pair in sorted(shapes[length].items())] for length in range(max(shapes, default=0) + 1)
        ],
        "rest": [[shape, rest[order], -order[0]] for order in sorted(rest) for shape in order[1:]],
        "templates": templates,
        "guards": guards,
        "siblings": {prefix: dict.fromkeys(sorted(found), True) for prefix, found in siblings.items()},
    }


def route_forms(endpoints: Iterable[Endpoint]) -> dict[str, Json]:
    """Endpoint → its form and what that needs, for the endpoints that have one."""
    listed = tuple(endpoints)
    siblings = _siblings(listed)
    tree = _tree(listed)
    forms: dict[str, Json] = {}
    for endpoint in listed:
        parts = endpoint.template.parts
        form = [endpoint.method, _form(parts), _pattern(parts)]
        guards = _guards(parts, siblings)
        if spells_number(endpoint.name):
            continue
        if not endpoint.template.rest:
            forms[endpoint.name] = [*form, guards] if guards else form
        elif _uncontested(parts, tree):
            forms[endpoint.name] = [*form, guards, True]
    return forms


def spells_number(name: str) -> bool:
    """Whether a number of JSON can be written so. OPA finds a key of data by the number as by the text."""
    return _NUMBER.fullmatch(name) is not None


def _tree(endpoints: Iterable[Endpoint]) -> _Tree:
    """What can follow what in the templates: literals by their text, variables of any type and `**` as such."""
    tree: _Tree = {}
    for endpoint in endpoints:
        node = tree
        for part in endpoint.template.parts:
            node = node.setdefault(_branch(part), {})
    return tree


def _branch(part: Part) -> str:
    return _VARIABLE if isinstance(part, Variable) else part.pattern


def _uncontested(parts: Sequence[Part], tree: _Tree) -> bool:
    """Whether no other template can match, before this one with `**`, what it matches.

    Others that go on after a beginning like its own could: those without `**` are asked before it, and so are longer
    ones with. A variable is taken to be like any segment.
    """
    alike = [tree]
    for part in parts[:-1]:
        literal = None if isinstance(part, Variable) else part.pattern
        alike = [
            below
            for node in alike
            for branch in (node if literal is None else (literal, _VARIABLE))
            if branch != _REST_OF_IT and (below := node.get(branch)) is not None
        ]
    return [[*node] for node in alike if node] == [[_REST_OF_IT]]


def _form(parts: Sequence[Part]) -> str:
    spelled = [
        f"%[{place}]s" if isinstance(part, Variable) else "" if isinstance(part, Rest) else part.text
        for place, part in enumerate(parts, start=1)
    ]
    unused = "" if any(isinstance(part, Variable) for part in parts) else _UNUSED
    return unused + "/".join(spelled)


def _key(parts: Sequence[Part]) -> str:
    return "/".join(f"={part.text}" if isinstance(part, Literal) else part.pattern for part in parts)


def _shape(parts: Sequence[Part]) -> str:
    spelled = [
        f"=%[{place}]s" if isinstance(part, Literal) else part.pattern for place, part in enumerate(parts, start=1)
    ]
    unused = "" if any(isinstance(part, Literal) for part in parts) else _UNUSED
    return unused + "/".join(spelled)


def _pattern(parts: Sequence[Part]) -> str:
    """A literal's segment was compared in the key; here it only has to be one segment."""
    return f"^{'/'.join(_PATTERNS[part.type] if isinstance(part, Variable) else _other(part) for part in parts)}$"


def _other(part: Part) -> str:
    return "[^/]*" if isinstance(part, Literal) else f"{_REST}(?:/{_REST})*"


def _siblings(endpoints: Iterable[Endpoint]) -> dict[str, set[str]]:
    """Folded literals by the prefix they follow, where a variable or `**` stands beside them.

    The empty literal, a path's end, is left out: nothing but itself equals it.
    """
    literals: dict[str, set[str]] = defaultdict(set)
    beside: set[str] = set()
    for endpoint in endpoints:
        parts = endpoint.template.parts
        for place, part in enumerate(parts):
            prefix = _key(parts[:place])
            if not isinstance(part, Literal):
                beside.add(prefix)
            elif part.text:
                literals[prefix].add(fold(part.text))
    return {prefix: literals[prefix] for prefix in sorted(beside) if prefix in literals}


def _guards(parts: Sequence[Part], siblings: Mapping[str, set[str]]) -> list[Json]:
    places = [place for place, part in enumerate(parts) if not isinstance(part, Literal)]
    return [[place, prefix] for place in places if (prefix := _key(parts[:place])) in siblings]
