"""The JSON Schema of `ostiary.yaml`, and the page that lists its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ostiary.config import config_schema
from ostiary.config.reference import reference
from ostiary.policy.document import parse_document, plain
from ostiary.policy.schema import schema_text
from support.files import CONFIG

DOCS = Path(__file__).resolve().parents[2] / "docs"


def errors(text: str) -> list[str]:
    document: Any = plain(parse_document(text, name="ostiary.yaml").value)
    return [error.json_path for error in jsonschema.Draft202012Validator(config_schema()).iter_errors(document)]


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(config_schema())


def test_the_published_schema_is_the_one_of_the_models() -> None:
    """If not: `ostiary schema config > docs/schema/ostiary.schema.json`."""
    assert (DOCS / "schema" / "ostiary.schema.json").read_text(encoding="utf-8") == schema_text(config_schema())


def test_the_published_reference_is_the_one_of_the_models() -> None:
    """If not: `python -m ostiary.config.reference > docs/configuration.md`."""
    assert (DOCS / "configuration.md").read_text(encoding="utf-8") == reference()


def test_the_example_of_the_design_fits() -> None:
    assert errors(CONFIG) == []


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("jwks_url", "jwks_uri", "$.issuers[0]"),
        ("[ES256]", "[HS256]", "$.issuers[0].algorithms[0]"),
        ("leeway: 5s", "leeway: 250ms", "$.issuers[0].leeway"),
        ("[orders.localhost]", "[]", "$.services.orders.hosts"),
        ("http://127.0.0.1:9001", "127.0.0.1:9001", "$.services.orders.upstream"),
        ("detail: full", "detail: ful", "$.errors.detail"),
        ("limits: {}", "limits: {body_bytes: 1GB}", "$.limits.body_bytes"),
    ],
)
def test_what_the_loader_refuses_by_shape_the_schema_refuses_too(old: str, new: str, place: str) -> None:
    assert old in CONFIG
    assert errors(CONFIG.replace(old, new, 1)) == [place]


def test_every_key_is_described() -> None:
    schema = config_schema()
    bare = [
        f"{model['title']}.{name}"
        for model in [schema, *schema["$defs"].values()]
        for name, described in model.get("properties", {}).items()
        if "description" not in described and "$ref" not in str(described)
    ]
    assert bare == []
