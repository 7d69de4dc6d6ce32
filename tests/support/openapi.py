"""What an API answers, held against its OpenAPI document."""

from __future__ import annotations

import re
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from ostiary.models import Json

_BASE = "urn:openapi"


class Described:
    """`document` is the OpenAPI document, whose schemas are those of JSON Schema 2020-12."""

    def __init__(self, document: dict[str, Json]) -> None:
        self._document = document
        resource = Resource.from_contents(document, default_specification=DRAFT202012)
        self._registry: Registry[Any] = Registry().with_resource(_BASE, resource)
        self.seen: set[tuple[str, str, str]] = set()
        """Operation and status of all that was held against it."""

    def operation(self, method: str, path: str) -> Json:
        """Raises KeyError for one that is not described."""
        fixed = {each for each in self._document["paths"] if each == path}
        for template in fixed or self._document["paths"]:
            pattern = re.compile(re.sub(r"\\\{[^/]+\\\}", "[^/]+", re.escape(template)))
            if pattern.fullmatch(path) and method.lower() in self._document["paths"][template]:
                return self._document["paths"][template][method.lower()]
        raise KeyError(f"{method} {path}")

    def check(self, method: str, path: str, *, status: int, content_type: str, body: Json) -> None:
        """Raise `jsonschema.ValidationError` or KeyError if this is no answer of that operation."""
        operation = self.operation(method, path)
        described = operation["responses"].get(str(status), operation["responses"]["default"])
        if "$ref" in described:
            described = self._document["components"]["responses"][described["$ref"].rpartition("/")[2]]
        self._validate(described["content"][content_type]["schema"], body)
        self.seen.add((operation["operationId"], method, str(status)))

    def check_body(self, method: str, path: str, body: Json) -> None:
        """Raise `jsonschema.ValidationError` if this is nothing that the operation takes."""
        self._validate(self.operation(method, path)["requestBody"]["content"]["application/json"]["schema"], body)

    def _validate(self, schema: Json, body: Json) -> None:
        absolute = {"$ref": f"{_BASE}{schema['$ref']}"} if "$ref" in schema else schema
        validator = validator_for(absolute, default=Draft202012Validator)
        validator(self._inlined(absolute), registry=self._registry).validate(body)

    def _inlined(self, schema: Json) -> Json:
        """References within the document, as ones to it."""
        if isinstance(schema, dict):
            return {
                name: f"{_BASE}{value}" if name == "$ref" and str(value).startswith("#") else self._inlined(value)
                for name, value in schema.items()
            }
        return [self._inlined(each) for each in schema] if isinstance(schema, list) else schema
