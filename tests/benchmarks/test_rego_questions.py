"""The map has as many permissions as are counted, and what is asked of it is what a batch is said to be."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.rego.questions import (
    DECISION,
    TOGETHER,
    mixed_batch,
    permission_count,
    permission_map,
    plain_batch,
    questions,
)
from ostiary.policy.model import PermissionMap


def pairs(text: str) -> set[tuple[str, str, str]]:
    """Caller, service and endpoint of every permission."""
    found = PermissionMap.model_validate(json.loads(text)).permissions
    return {(one.caller, one.service, endpoint) for one in found for endpoint in one.endpoints or ()}


def test_permissions_are_counted_as_the_map_has_them() -> None:
    assert len(pairs(permission_map(3, 4))) == permission_count(3, 4) == 117
    assert permission_count() == 99_900


def test_two_maps_differ_in_who_is_denied_what() -> None:
    one, other = pairs(permission_map(1, 4)), pairs(permission_map(1, 4, denied="endpoint-2"))
    assert one - other == {("caller-9", "service-0", "endpoint-2")}
    assert other - one == {("caller-9", "service-0", "endpoint-1")}


def test_a_plain_batch_is_of_questions_that_all_differ_about_permissions_without_conditions() -> None:
    def about(document: dict[str, Any]) -> tuple[str, str, str]:
        return document["subject"]["id"], document["resource"]["id"], document["resource"]["properties"]["endpoint"]

    asked = {about(document) for document in plain_batch()}
    found = PermissionMap.model_validate(json.loads(permission_map(1, 10)))
    plain = {
        (one.caller, one.service, endpoint)
        for one in found.permissions
        if one.when is None and found.callers[one.caller].claims is None
        for endpoint in one.endpoints or ()
    }
    assert len(asked) == TOGETHER
    assert asked <= plain


def test_a_mixed_batch_has_every_kind_of_decision_as_often_as_the_others_or_once_more() -> None:
    kinds = [document for query, document in questions().values() if query == DECISION]
    often = [mixed_batch().count(kind) for kind in kinds]
    assert sum(often) == TOGETHER
    assert max(often) - min(often) <= 1
