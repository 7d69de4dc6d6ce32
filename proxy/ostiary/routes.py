"""Path templates: their grammar, and the table that finds the one endpoint a request is aimed at.

A template is a `/` and segments: literals of unreserved characters (RFC 3986 section 2.3), variables `{name}` or
`{name:type}`, and `**`, which is only last and stands for one or more segments. A template that ends in `/` matches
only paths that do. Whatever else a path can hold (sub-delimiters, `:`, `@`, UTF-8) is matched by a `text` variable and
by nothing else, so a literal cannot spell it and `**` does not cover it.

Three rules make the answer unique, and with them a table is a tree in which every path has one way down:

* a variable, and the first segment of `**`, never matches what equals a sibling literal, case folded in both;
* the variables at one place have one type (a second one is a `Conflict`);
* `**` is asked only where nothing else matched, the longest prefix first.

So a look-up costs the number of segments, whatever the number of routes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TypeAlias

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""The methods that can have an endpoint (SECURITY section 4). Upper case; methods are case-sensitive (RFC 9110)."""

VARIABLE_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "name": "[A-Za-z0-9][A-Za-z0-9_-]{0,127}",
        "int": "(?:0|[1-9][0-9]{0,18})",
        "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        "file": r"[A-Za-z0-9](?:(?:\.?[A-Za-z0-9_-])*\.?[A-Za-z0-9])?",  # every dot is followed by something else
        "text": r"[^\p{C}\p{Z}/\\;%?#]{1,256}",
    }
)
"""Type to its regular expression in RE2's syntax, not anchored. What a regular expression cannot say about `text`
(NFC, no dot segment, nothing unassigned) is ensured by the canonicaliser before, and by `matches`; Python's `re` cannot
compile that one."""

_LITERAL: Final = re.compile(r"[A-Za-z0-9._~-]+")
_VARIABLE: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]{0,63})(?::([a-z]+))?\}")
_DOT_SEGMENTS: Final = frozenset({".", ".."})
_SEPARATORS: Final = frozenset("/\\;%?#")
_TEXT_LENGTH: Final = 256

# Letters beyond ASCII that some upstream's case-insensitive router takes for an ASCII one (Java's equalsIgnoreCase
# equates all four). In Rego: lower(strings.replace_n({"\u017f": "s", "\u0131": "i"}, segment)); lower does the rest.
_LOOKALIKES: Final = {0x017F: "s", 0x0131: "i", 0x0130: "i", 0x212A: "k"}


class TemplateError(ValueError):
    """A template or endpoint outside the grammar. The message is one sentence for the person who wrote it."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A segment that stands for itself. The empty one is last only: the template ends in `/`."""

    text: str

    @property
    def pattern(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Variable:
    """One segment of a type: a key of `VARIABLE_TYPES`."""

    name: str
    type: str = "name"

    @property
    def pattern(self) -> str:
        return "{}" + self.type


@dataclass(frozen=True, slots=True)
class Rest:
    """`**`: one or more segments of unreserved characters, none empty."""

    @property
    def pattern(self) -> str:
        return "**"


Part: TypeAlias = Literal | Variable | Rest


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template: `text` as written, `parts` one for each segment."""

    text: str
    parts: tuple[Part, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Parse `/orders/{order_id}/**`; raises `TemplateError`."""
        if not text.startswith("/"):
            raise TemplateError(f"a path template starts with '/', and {text!r} does not")
        segments = text[1:].split("/")
        last = len(segments) - 1
        parts = tuple(_part(text, segment, last=place == last) for place, segment in enumerate(segments))
        names = [part.name for part in parts if isinstance(part, Variable)]
        for name in names:
            if names.count(name) > 1:
                raise TemplateError(f"the variable {name!r} occurs twice in {text!r}")
        return cls(text, parts)

    @property
    def pattern(self) -> str:
        """The text with every variable replaced by `{}` and its type: equal where two templates match the same."""
        return "/" + "/".join(part.pattern for part in self.parts)

    @property
    def rest(self) -> bool:
        """Whether it ends in `**`."""
        return isinstance(self.parts[-1], Rest)

    @property
    def variables(self) -> tuple[tuple[str, int], ...]:
        """Each variable's name and the index of its segment."""
        return tuple((part.name, place) for place, part in enumerate(self.parts) if isinstance(part, Variable))


def _part(text: str, segment: str, *, last: bool) -> Part:
    if segment == "":
        if last:
            return Literal("")
        raise TemplateError(f"an empty segment is accepted only at the end, not inside {text!r}")
    if segment == "**":
        if last:
            return Rest()
        raise TemplateError(f"'**' can only be the last segment, which it is not in {text!r}")
    if "{" in segment or "}" in segment:
        return _variable(text, segment)
    if not segment.strip("."):  # the canonicaliser refuses them, whatever their number
        raise TemplateError(f"a segment of dots can never be requested, so {text!r} cannot be matched")
    if not _LITERAL.fullmatch(segment):
        raise TemplateError(f"the segment {segment!r} of {text!r} has characters beyond A-Z a-z 0-9 . _ ~ -")
    return Literal(segment)


def _variable(text: str, segment: str) -> Variable:
    found = _VARIABLE.fullmatch(segment)
    if found is None:
        raise TemplateError(
            f"the segment {segment!r} of {text!r} is not a variable: that is a whole segment, '{{name}}' or "
            "'{name:type}', the name made of letters, digits and _"
        )
    name, kind = found[1], found[2] or "name"
    if kind not in VARIABLE_TYPES:
        raise TemplateError(f"the type {kind!r} in {text!r} is unknown; there are {', '.join(sorted(VARIABLE_TYPES))}")
    return Variable(name, kind)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A named method and template of a service: `get-order: GET /orders/{order_id}`."""

    name: str
    method: str
    template: Template

    @classmethod
    def parse(cls, name: str, text: str) -> Endpoint:
        """Parse `GET /orders/{order_id}`; raises `TemplateError`."""
        method, space, path = text.partition(" ")
        if not space:
            raise TemplateError(f"an endpoint is a method and a path template, 'GET /orders', not {text!r}")
        if method not in METHODS:
            raise TemplateError(f"the method {method!r} is not one of {', '.join(sorted(METHODS))}")
        return cls(name, method, Template.parse(path))

    @property
    def path(self) -> str:
        """The template's text."""
        return self.template.text


def _is_text(segment: str) -> bool:
    return (
        0 < len(segment) <= _TEXT_LENGTH
        and segment not in _DOT_SEGMENTS
        and " " not in segment
        and _SEPARATORS.isdisjoint(segment)
        and segment.isprintable()  # no control, no format character (the bidirectional marks are ones), no space
        and unicodedata.is_normalized("NFC", segment)
    )


_MATCHERS: Final[Mapping[str, Callable[[str], object]]] = MappingProxyType(
    {name: re.compile(VARIABLE_TYPES[name]).fullmatch for name in ("name", "int", "uuid", "file")} | {"text": _is_text}
)


def matches(kind: str, segment: str) -> bool:
    """Whether a variable of that type matches the segment. A type that does not exist matches nothing."""
    matcher = _MATCHERS.get(kind)
    return matcher is not None and bool(matcher(segment))


def fold(segment: str) -> str:
    """The form in which a segment is compared with sibling literals."""
    return segment.lower() if segment.isascii() else segment.translate(_LOOKALIKES).lower()


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two endpoints (their names) that cannot stand in one table. The table leaves the second out."""

    first: str
    second: str
    message: str


@dataclass(slots=True, eq=False)
class _Node:
    """A prefix pattern. `here` and `rest` are the endpoints whose template ends here, or here with `**`.

    `least` is the text of one template through here, always the same one: the least.
    """

    least: str
    literals: dict[str, _Node] = field(default_factory=dict)
    folded: set[str] = field(default_factory=set)
    variable: _Node | None = None
    kind: str = ""  # the type of `variable`
    owner: str = ""  # the endpoint that brought `variable`
    here: tuple[Endpoint, ...] = ()
    rest: tuple[Endpoint, ...] = ()


class RouteTable:
    """The endpoints of one service. `conflicts` says which were left out and why; a good table has none."""

    __slots__ = ("_root", "conflicts")

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._root = _Node("")
        conflicts = [conflict for endpoint in endpoints if (conflict := self._add(endpoint)) is not None]
        self.conflicts: tuple[Conflict, ...] = tuple(conflicts)

    def match(self, segments: Sequence[str]) -> tuple[Endpoint, ...]:
        """The endpoints (one for each method) of the template that these decoded segments are aimed at, or ()."""
        node = self._root
        fallback: tuple[Endpoint, ...] = ()
        covered = 0
        for place, segment in enumerate(segments):
            child = node.literals.get(segment)
            if child is None:
                if node.folded and fold(segment) in node.folded:
                    break  # it looks like a sibling literal: neither a variable nor the start of `**`
                if node.rest:
                    fallback, covered = node.rest, place
                child = node.variable
                if child is None or not _MATCHERS[node.kind](segment):
                    break
            node = child
        else:
            if node.here:
                return node.here
        if fallback and all(map(_is_rest_segment, segments[covered:])):
            return fallback
        return ()

    def endpoint(self, method: str, segments: Sequence[str]) -> Endpoint | None:
        """The endpoint of that method, or None: also where the winning template has only other methods."""
        for endpoint in self.match(segments):
            if endpoint.method == method:
                return endpoint
        return None

    def beside(self, endpoint: Endpoint) -> tuple[str, ...]:
        """The texts of the templates that narrow which paths `endpoint` matches: few, and sorted.

        With them, and without the rest of the table, `RouteTable([endpoint, *beside]).match(path)` holds `endpoint`
        exactly where this table's does. An endpoint that is not in this table raises `KeyError`.
        """
        texts: set[str] = set()
        node: _Node | None = self._root
        for part in endpoint.template.parts:
            if node is None:
                break
            if isinstance(part, Literal):
                node = node.literals.get(part.text)
            elif isinstance(part, Variable):
                texts.update(_siblings(node, part.type))
                node = node.variable
            elif endpoint in node.rest:
                texts.update(_siblings(node, None))
                return tuple(sorted(texts if node.variable is None else texts | _winners(node.variable)))
            else:
                break
        if node is None or endpoint not in node.here:
            raise KeyError(endpoint.name)
        return tuple(sorted(texts))

    def _add(self, endpoint: Endpoint) -> Conflict | None:
        conflict = self._conflict(endpoint)
        if conflict is not None:
            return conflict
        node = self._root
        for part in endpoint.template.parts:
            if isinstance(part, Literal):
                node.folded.add(fold(part.text))
                node = node.literals.setdefault(part.text, _Node(endpoint.path))
            elif isinstance(part, Variable):
                if node.variable is None:
                    node.variable, node.kind, node.owner = _Node(endpoint.path), part.type, endpoint.name
                node = node.variable
            else:
                node.rest = (*node.rest, endpoint)
                return None
            node.least = min(node.least, endpoint.path)
        node.here = (*node.here, endpoint)
        return None

    def _conflict(self, endpoint: Endpoint) -> Conflict | None:
        node: _Node | None = self._root
        present: tuple[Endpoint, ...] = ()
        for part in endpoint.template.parts:
            if node is None:
                return None
            if isinstance(part, Literal):
                node = node.literals.get(part.text)
            elif isinstance(part, Variable):
                if node.variable is not None and node.kind != part.type:
                    return Conflict(
                        node.owner,
                        endpoint.name,
                        f"{endpoint.path} has a variable of type {part.type!r} where {node.owner!r} "
                        f"has one of type {node.kind!r}; the variables at one place have one type",
                    )
                node = node.variable
            else:
                present = node.rest
        if node is not None and not endpoint.template.rest:
            present = node.here
        for other in present:
            if other.method == endpoint.method:
                return Conflict(
                    other.name,
                    endpoint.name,
                    f"{endpoint.method} {endpoint.path} matches the same requests as "
                    f"{other.name!r}, which is {other.method} {other.path}",
                )
        return None


def _is_rest_segment(segment: str) -> bool:
    return _LITERAL.fullmatch(segment) is not None and segment not in _DOT_SEGMENTS


def _siblings(node: _Node, kind: str | None) -> Iterator[str]:
    """One template for each sibling literal that a variable of this type (None: `**`) could match but for the rule."""
    seen: set[str] = set()
    for text in sorted(node.literals):
        folded = fold(text)
        if folded in seen or not (_is_rest_segment(folded) if kind is None else matches(kind, folded)):
            continue
        seen.add(folded)
        yield node.literals[text].least


def _winners(node: _Node) -> set[str]:
    """The templates through this node that win over a shorter `**`, with what narrows those that do."""
    texts: set[str] = set()
    if node.here:
        texts.add(_least(node.here))
    present: set[str] = set()
    for text, child in node.literals.items():
        beneath = set() if text == "" else _winners(child)  # `**` covers no empty segment
        if beneath:
            present.add(fold(text))
            texts |= beneath
    if node.rest:
        texts.add(_least(node.rest))  # what comes through the variable is covered by this one
        kind = None
    else:
        through = set() if node.variable is None else _winners(node.variable)
        if not through:
            return texts
        texts |= through
        kind = node.kind
    for text in sorted(node.literals):
        folded = fold(text)
        if folded in present or not (_is_rest_segment(folded) if kind is None else matches(kind, folded)):
            continue
        present.add(folded)
        texts.add(node.literals[text].least)
    return texts


def _least(endpoints: Iterable[Endpoint]) -> str:
    return min(endpoint.path for endpoint in endpoints)
