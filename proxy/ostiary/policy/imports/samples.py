"""A request for an endpoint, to show it and to test it with."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Final

from ostiary.routes import Endpoint, Literal, Part, Variable, fold

_SAMPLES: Final = {
    "name": "a{}",
    "int": "4{}",
    "uuid": "{:08x}-5c1d-4f5e-9a7b-2d3c4e5f6a7b",
    "file": "a{}.txt",
    "text": "a{}",
}


def sample_path(endpoint: Endpoint, beside: Iterable[Endpoint]) -> str:
    """A path that leads to an endpoint, whose template has no `**`, and to none of the others of its service.

    No variable is filled with what is a literal somewhere in them, so each segment leads one way only.
    """
    literals = {fold(part.text) for one in beside for part in one.template.parts if isinstance(part, Literal)}
    return "/" + "/".join(_segment(part, literals) for part in endpoint.template.parts)


def _segment(part: Part, literals: set[str]) -> str:
    if isinstance(part, Literal):
        return part.text
    return _other(part.type if isinstance(part, Variable) else "name", literals)


def _other(kind: str, literals: set[str]) -> str:
    candidates = (_SAMPLES[kind].format(number) for number in count(2))
    return next(each for each in candidates if each not in literals)
