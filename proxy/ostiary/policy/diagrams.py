"""The access map as a diagram: Mermaid for a page, DOT for Graphviz.

Nodes have ids of their own and carry what people wrote as quoted labels only, so that no name can be syntax.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from ostiary.policy.accessmap import SHADOW, Access, AccessMap
from ostiary.routes import Endpoint

# Mermaid has no escape but character codes: `#35;`. The quote ends a label, a grave accent begins Markdown, `<`, `>`
# and `&` are HTML, `#` and `;` belong to codes, and `%%` begins a comment or a directive wherever it stands.
_MERMAID_SPECIAL: Final = re.compile(r'["`<>&#;%\\]')

_STYLES: Final = {"standing": "solid", "eligible": "dashed", "shadow": "dotted"}


def mermaid(found: AccessMap) -> str:
    """A flowchart: callers to endpoints, grouped by service; a dotted arrow is eligible or a shadow, not standing."""
    nodes = _Nodes(found)
    lines = ["flowchart LR"]
    lines += [f"  {node}([{_mermaid(name)}])" for name, node in nodes.callers.items()]
    for number, (service, endpoints) in enumerate(nodes.services.items()):
        lines.append(f"  subgraph s{number}[{_mermaid(_service(found, service))}]")
        lines += [f"    {node}[{_mermaid(_label(endpoint))}]" for endpoint, node in endpoints]
        lines.append("  end")
    for caller, endpoint, access in nodes.edges(found.accesses):
        arrow = "-->" if access.kind == "standing" else "-.->"
        label = _edge(access)
        lines.append(f"  {caller} {arrow}{f'|{_mermaid(label)}|' if label else ''} {endpoint}")
    return "\n".join(lines) + "\n"


def dot(found: AccessMap) -> str:
    """The same as a digraph; a dashed edge is eligible, a dotted one a shadow."""
    nodes = _Nodes(found)
    lines = ["digraph access {", "  rankdir=LR;", "  node [shape=box];"]
    lines += [f"  {node} [shape=ellipse, label={_dot(name)}];" for name, node in nodes.callers.items()]
    for number, (service, endpoints) in enumerate(nodes.services.items()):
        lines += [f"  subgraph cluster_{number} {{", f"    label={_dot(_service(found, service))};"]
        lines += [f"    {node} [label={_dot(_label(endpoint))}];" for endpoint, node in endpoints]
        lines.append("  }")
    for caller, endpoint, access in nodes.edges(found.accesses):
        lines.append(f"  {caller} -> {endpoint} [style={_STYLES[access.kind]}, label={_dot(_edge(access))}];")
    return "\n".join([*lines, "}"]) + "\n"


class _Nodes:
    """An id for every caller and every endpoint that somebody may call, in their order."""

    def __init__(self, found: AccessMap) -> None:
        self.callers = {name: f"c{number}" for number, name in enumerate(found.callers)}
        endpoints = {(access.service, access.endpoint.name): access.endpoint for access in found.accesses}
        self._ids = {key: f"e{number}" for number, key in enumerate(sorted(endpoints))}
        self.services: dict[str, list[tuple[Endpoint, str]]] = {}
        for (service, name), node in self._ids.items():
            self.services.setdefault(service, []).append((endpoints[service, name], node))

    def edges(self, accesses: Iterable[Access]) -> Iterator[tuple[str, str, Access]]:
        for access in accesses:
            yield self.callers[access.caller], self._ids[access.service, access.endpoint.name], access


def _service(found: AccessMap, service: str) -> str:
    until = found.observed.get(service)
    return service if until is None else f"{service}, observed until {until}: every caller everywhere"


def _label(endpoint: Endpoint) -> str:
    return f"{endpoint.name}: {endpoint.method} {endpoint.path}"


def _edge(access: Access) -> str:
    terms = [f"eligible: {access.terms}"] if access.terms else []
    return "; ".join([*terms, *([SHADOW] if access.kind == "shadow" else []), *access.conditions])


def _mermaid(text: str) -> str:
    return f'"{_MERMAID_SPECIAL.sub(lambda found: f"#{ord(found[0])};", text)}"'


def _dot(text: str) -> str:
    # A label is an escString: a backslash is doubled, or `\N` would be the node's name.
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
