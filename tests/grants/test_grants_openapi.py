"""The OpenAPI document is one, and describes what is served: no more and no less."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

from openapi_spec_validator import OpenAPIV31SpecValidator

from ostiary.grants import api, block_api
from ostiary.grants.openapi import OPERATIONS, openapi_document

DISPATCHES: Final[dict[ModuleType, str]] = {api: "/access", block_api: "/access/blocks"}
"""Modules that answer by `match method, segments`, and below what they do."""


def served() -> set[tuple[str, str]]:
    """Method and path of each case of the API's dispatch, with `{}` for what is matched by a name."""
    return {case for module, below in DISPATCHES.items() for case in cases(module, below)}


def cases(module: ModuleType, below: str) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.MatchSequence) and len(node.patterns) == 2):
            continue
        method, segments = node.patterns
        if isinstance(method, ast.MatchValue) and isinstance(segments, ast.MatchSequence):
            yield str(ast.literal_eval(method.value)), "/".join([below, *map(segment, segments.patterns)])


def segment(pattern: ast.pattern) -> str:
    return str(ast.literal_eval(pattern.value)) if isinstance(pattern, ast.MatchValue) else "{}"


def test_it_is_an_openapi_document() -> None:
    OpenAPIV31SpecValidator(openapi_document()).validate()


def test_every_operation_is_served_and_all_that_is_served_is_an_operation() -> None:
    dispatched = served()
    assert len(dispatched) >= 9
    described = {(one.method.upper(), one.path) for one in OPERATIONS}
    patterns = {case: re.compile(re.escape(case[1]).replace(r"\{\}", "[^/]+")) for case in dispatched}
    by_case = {
        case: {one for one in described if one[0] == case[0] and pattern.fullmatch(one[1])}
        for case, pattern in patterns.items()
    }
    assert [case for case, found in by_case.items() if not found] == []
    assert described - set().union(*by_case.values()) == set()


def test_each_operation_has_a_name_of_its_own() -> None:
    assert len({one.name for one in OPERATIONS}) == len(OPERATIONS)
