"""Readers of the two diagram languages, for as much of them as the access map writes.

Both read by the language's own rules for quoting and refuse everything else, so that a name that had become syntax
would not be read back as itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

Edge = tuple[str, str, bool, str]
"""From, to, whether it is dashed, and the label."""


@dataclass
class Diagram:
    """Callers, endpoints by service, and edges, by label instead of id."""

    callers: list[str] = field(default_factory=list)
    services: dict[str, list[str]] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)


_TEXT = r'"((?:[^"`<>&#;%\\]|#\d+;)*)"'
_CALLER = re.compile(rf"  (c\d+)\(\[{_TEXT}\]\)")
_SUBGRAPH = re.compile(rf"  subgraph s\d+\[{_TEXT}\]")
_ENDPOINT = re.compile(rf"    (e\d+)\[{_TEXT}\]")
_EDGE = re.compile(rf"  (c\d+) (-->|-\.->)(?:\|{_TEXT}\|)? (e\d+)")


def read_mermaid(text: str) -> Diagram:
    """A flowchart. A label holds no character that Mermaid has a meaning for but as its code, `#35;`."""
    first, *lines = text.removesuffix("\n").split("\n")
    if first != "flowchart LR":
        raise ValueError(first)
    diagram, names, service = Diagram(), {}, ""
    for line in lines:
        if found := _CALLER.fullmatch(line):
            names[found[1]] = _decoded(found[2])
            diagram.callers.append(names[found[1]])
        elif found := _SUBGRAPH.fullmatch(line):
            service = _decoded(found[1])
            diagram.services[service] = []
        elif found := _ENDPOINT.fullmatch(line):
            names[found[1]] = _decoded(found[2])
            diagram.services[service].append(names[found[1]])
        elif found := _EDGE.fullmatch(line):
            edge = (names[found[1]], names[found[4]], found[2] == "-.->", _decoded(found[3] or ""))
            diagram.edges.append(edge)
        elif line != "  end":
            raise ValueError(line)
    return diagram


def _decoded(text: str) -> str:
    return re.sub(r"#(\d+);", lambda code: chr(int(code[1])), text)


# The tokens of the DOT language (graphviz.org/doc/info/lang.html), without HTML strings.
_TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|([A-Za-z_][A-Za-z_0-9]*)|(->|[{}\[\]=;,]))')


def read_dot(text: str) -> Diagram:
    """A digraph: `graph: 'digraph' ID '{' statement* '}'`, with node, edge, attribute and subgraph statements."""
    tokens = list(_tokens(text))
    if tokens[:3] != ["digraph", "access", "{"] or tokens[-1] != "}":
        raise ValueError("no digraph")
    diagram, names, service, position = Diagram(), {}, "", 3
    while position < len(tokens) - 1:
        here = tokens[position]
        if here == "subgraph":
            position += 3
        elif here == "}":
            service, position = "", position + 1
        elif tokens[position + 1] == "=":
            if here == "label":
                service = _unquoted(tokens[position + 2])
                diagram.services[service] = []
            position = _after(tokens, position + 3)
        elif tokens[position + 1] == "->":
            attributes, end = _attributes(tokens, position + 3)
            dashed, label = attributes["style"] == "dashed", _unquoted(attributes["label"])
            diagram.edges.append((names[here], names[tokens[position + 2]], dashed, label))
            position = end
        else:
            attributes, position = _attributes(tokens, position + 1)
            if here != "node":
                names[here] = _unquoted(attributes["label"])
                (diagram.services[service] if service else diagram.callers).append(names[here])
    return diagram


def _tokens(text: str) -> list[str]:
    position, found = 0, []
    while text[position:].strip():
        token = _TOKEN.match(text, position)
        if token is None:
            raise ValueError(text[position : position + 40])
        found.append(token[0].strip())
        position = token.end()
    return found


def _attributes(tokens: list[str], position: int) -> tuple[dict[str, str], int]:
    if tokens[position] != "[":
        raise ValueError(tokens[position])
    end = tokens.index("]", position)
    inside = tokens[position + 1 : end]
    if [*inside[1::4], *inside[3::4]] != ["="] * len(inside[1::4]) + [","] * len(inside[3::4]):
        raise ValueError(inside)
    return dict(zip(inside[::4], inside[2::4], strict=True)), _after(tokens, end + 1)


def _after(tokens: list[str], position: int) -> int:
    if tokens[position] != ";":
        raise ValueError(tokens[position])
    return position + 1


def _unquoted(token: str) -> str:
    """A quoted string that is an escString: two backslashes are one, and no other escape has a literal meaning."""
    if not token.startswith('"'):
        raise ValueError(token)
    return re.sub(r"\\(.)", _escaped, token[1:-1])


def _escaped(found: re.Match[str]) -> str:
    if found[1] not in '"\\':
        raise ValueError(found[0])
    return found[1]
