"""Who may do what, decided by reading the permission map from top to bottom for every request.

Shares nothing with ostiary: no compiler, no index, no Rego. What it and the proxy both know is the text of the map.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import yaml

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request as its client sees it. `claims` are those of its token."""

    issuer: str
    subject: str
    claims: Mapping[str, Any] = field(default_factory=dict)
    method: str
    path: str
    query: str = ""
    source: str = "127.0.0.1"


class Oracle:
    """The answers of one permission map, of one service."""

    def __init__(self, text: str, *, service: str) -> None:
        document = yaml.load(text, Loader=yaml.BaseLoader)
        self._callers = document["callers"]
        self._permissions = [one for one in document["permissions"] if one["service"] == service]
        self._endpoints = {
            name: (one.split(" ")[0], one.split(" ")[1].split("/")[1:])
            for name, one in document["services"][service]["endpoints"].items()
        }

    def allows(self, asked: Asked) -> bool:
        found = self._endpoint(asked)
        if found is None:
            return False
        name, variables = found
        mine = [caller for caller, who in self._callers.items() if _is(asked, who)]
        return any(
            permission["caller"] in mine
            and name in permission["endpoints"]
            and all(_holds(kind, what, asked, variables) for kind, what in permission.get("when", {}).items())
            for permission in self._permissions
        )

    def _endpoint(self, asked: Asked) -> tuple[str, dict[str, str]] | None:
        """The one whose template matches the path, a template that ends in `**` only if no other does."""
        segments = asked.path.split("/")[1:]
        for open_ended in (False, True):
            matching = [
                (template, name, method, variables)
                for name, (method, template) in self._endpoints.items()
                if (template[-1] == "**") is open_ended and (variables := self._match(template, segments)) is not None
            ]
            if not matching:
                continue
            longest = max(len(template) for template, *_ in matching)
            for template, name, method, variables in matching:
                if len(template) == longest and method == asked.method:
                    return name, variables
            return None
        return None

    def _match(self, template: list[str], segments: list[str]) -> dict[str, str] | None:
        variables = {}
        for place, part in enumerate(template):
            siblings = {
                other[place].casefold()
                for _, other in self._endpoints.values()
                if len(other) > place and other[:place] == template[:place] and other[place][:1] not in ("{", "*")
            }
            if part == "**":
                rest = segments[place:]
                return variables if rest and all(rest) and rest[0].casefold() not in siblings else None
            if place >= len(segments):
                return None
            if part.startswith("{"):
                if not _NAME.fullmatch(segments[place]) or segments[place].casefold() in siblings:
                    return None
                variables[part[1:-1]] = segments[place]
            elif part != segments[place]:
                return None
        return variables if len(segments) == len(template) else None


def _is(asked: Asked, who: Mapping[str, Any]) -> bool:
    return (
        who["issuer"] == asked.issuer
        and who.get("subject", asked.subject) == asked.subject
        and all(_has(asked, claim, value) for claim, value in who.get("claims", {}).items())
    )


def _has(asked: Asked, claim: str, value: str) -> bool:
    found = asked.claims.get(claim)
    return value in found if isinstance(found, list) else value == found


def _holds(kind: str, what: Any, asked: Asked, variables: Mapping[str, str]) -> bool:
    if kind == "source":
        return any(ipaddress.ip_address(asked.source) in ipaddress.ip_network(one) for one in what)
    if kind == "hours":  # UTC, within one day
        now = time.strftime("%H:%M", time.gmtime())
        return bool(what["from"] <= now < what["to"])
    if kind == "claims":
        return all(_has(asked, claim, value) for claim, value in what.items())
    if kind == "read_only":
        return asked.method in _SAFE
    if kind == "query":
        pairs = parse_qsl(asked.query, keep_blank_values=True)
        names = [name for name, _ in pairs]
        return len(names) == len(set(names)) and all(
            name in what and (what[name] == "*" or value in _list(what[name])) for name, value in pairs
        )
    if kind == "path":
        return all(name in variables and _has(asked, one["claim"], variables[name]) for name, one in what.items())
    if kind == "custom":  # policy.rego of this soak
        return asked.path.endswith(what["ends_with"])
    raise ValueError(kind)


def _list(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]
