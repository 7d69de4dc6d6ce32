"""JSON Schemas (draft 2020-12) of the files that people write, so that editors help while they are written.

The schemas say what the models say, no less strict: unknown keys are refused, names have their grammar, lists are not
empty. What needs the rest of the file (does this role exist?) only the loaders know.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from functools import cache
from itertools import pairwise
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from ostiary.policy.cases import CASES, CaseTable
from ostiary.policy.model import PermissionMap

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def permissions_schema() -> dict[str, Any]:
    """JSON Schema of `permissions.yaml`."""
    return schema_of(PermissionMap, title="permissions.yaml", absent_only=True)


def cases_schema() -> dict[str, Any]:
    """JSON Schema of `*_cases.yaml`."""
    return schema_of(CaseTable, title=CASES, absent_only=True)


def schema_of(model: type[BaseModel], *, title: str, absent_only: bool = False) -> dict[str, Any]:
    """The schema of a file. With `absent_only`, an optional key may be left out and not be null."""
    generated = model.model_json_schema(by_alias=True, mode="validation", schema_generator=_Described)
    return {"$schema": DIALECT, **_tidy(generated, absent_only=absent_only), "title": title}


def schema_text(schema: dict[str, Any]) -> str:
    """As the published files have it, and as `ostiary schema` prints it."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def docstrings(model: type[BaseModel]) -> dict[str, str]:
    """What is written below each field in the model's source, by the field's name."""
    found = {}
    for field, below in pairwise(_classes(model.__module__)[model.__name__].body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text)
    return found


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


class _Described(GenerateJsonSchema):
    """Fields have their docstrings as descriptions."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        found = super().model_schema(schema)
        model: type[BaseModel] = schema["cls"]
        for name, text in docstrings(model).items():
            found["properties"][model.model_fields[name].alias or name].setdefault("description", text)
        return found


def _tidy(node: Any, *, absent_only: bool) -> Any:
    if isinstance(node, list):
        return [_tidy(entry, absent_only=absent_only) for entry in node]
    if not isinstance(node, dict):
        return node
    tidied = {key: _tidy(entry, absent_only=absent_only) for key, entry in node.items()}
    if "patternProperties" in tidied:
        tidied["additionalProperties"] = False  # else a key outside the pattern would be free
    if "default" in tidied and (tidied["default"] is None or "const" in tidied):
        del tidied["default"]
    if isinstance(tidied.get("description"), str):
        tidied["description"] = " ".join(tidied["description"].split())
    choices = tidied.get("anyOf")
    if absent_only and isinstance(choices, list):
        kept = [choice for choice in choices if choice != {"type": "null"}]
        if len(kept) == 1:
            del tidied["anyOf"]
            tidied = {**kept[0], **tidied}
        else:
            tidied["anyOf"] = kept
    return tidied
