"""The JSON Schema of permission maps: what editors say while one is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ostiary.policy.document import parse_document, plain
from ostiary.policy.schema import permissions_schema, schema_text
from support.files import PERMISSIONS

PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "schema" / "permissions.schema.json"


def errors(text: str) -> list[str]:
    document: Any = plain(parse_document(text, name="permissions.yaml").value)
    validator = jsonschema.Draft202012Validator(permissions_schema())
    return [error.json_path for error in validator.iter_errors(document)]


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(permissions_schema())


def test_the_published_schema_is_the_one_of_the_models() -> None:
    """If not: `ostiary schema permissions > docs/schema/permissions.schema.json`."""
    assert PUBLISHED.read_text(encoding="utf-8") == schema_text(permissions_schema())


def test_the_example_of_the_design_fits() -> None:
    assert errors(PERMISSIONS) == []


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("roles: [order-reader]}", "role: [order-reader]}", "$.permissions[0]"),
        ("endpoints: [create-order]", "endpoints: []", "$.permissions[1].endpoints"),
        ("lifetime: 30s", "lifetime: soon", "$.permissions[2].credential.lifetime"),
        ("max_duration: 30m, ", "", "$.eligible[0]"),
        ("approvals: 1", "approvals: 0", "$.eligible[0].approvals"),
        ("  web: ", "  Web: ", "$.callers"),
        ("get-order:    GET", "get-order:    FETCH", "$.services.orders.endpoints['get-order']"),
        ("{source: [10.0.0.0/8]}}\n  -", "{source: null}}\n  -", "$.permissions[1].when.source"),
    ],
)
def test_what_the_loader_refuses_by_shape_the_schema_refuses_too(old: str, new: str, place: str) -> None:
    assert old in PERMISSIONS
    assert errors(PERMISSIONS.replace(old, new, 1)) == [place]


def test_every_key_is_described() -> None:
    schema = permissions_schema()
    models = [schema, *schema["$defs"].values()]
    bare = [
        f"{model['title']}.{name}"
        for model in models
        for name, described in model.get("properties", {}).items()
        if "description" not in described and "$ref" not in described
    ]
    assert bare == []
