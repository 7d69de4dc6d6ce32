"""The records that pass between the stages."""

from __future__ import annotations

from dataclasses import MISSING, FrozenInstanceError, fields, replace
from inspect import signature

import pytest

from ostiary.models import AccessRequest
from support.audit import request


def test_a_question_is_made_as_a_record_is() -> None:
    """Its own `__init__` takes the fields, by keyword, with their defaults, and sets every one."""
    parameters = list(signature(AccessRequest).parameters.values())
    assert all(one.kind is one.KEYWORD_ONLY for one in parameters)
    assert [(one.name, MISSING if one.default is one.empty else one.default) for one in parameters] == [
        (one.name, one.default) for one in fields(AccessRequest)
    ]
    values = {one.name: object() for one in fields(AccessRequest)}
    made = AccessRequest(**values)  # type: ignore[arg-type]
    assert {name: getattr(made, name) for name in values} == values


def test_a_question_does_not_change() -> None:
    asked = request()
    with pytest.raises(FrozenInstanceError):
        asked.method = "POST"  # type: ignore[misc]
    assert replace(asked, method="POST") != asked == replace(asked)
