"""docs/configuration.md, written from the models: `python -m ostiary.config.reference > docs/configuration.md`."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr, TypeAdapter
from pydantic.fields import FieldInfo

from ostiary.config.model import Config
from ostiary.policy.schema import docstrings
from ostiary.policy.values import Duration, Size, written_duration, written_size

_INTRODUCTION: Final = """\
# Configuration: every key of `ostiary.yaml`

This page is written from the models that read the file, and a test holds the two equal.
`ostiary schema config` prints the same as JSON Schema, for editors.

* The file is YAML 1.2 (core schema): `no` and `08:00` are text. Duplicate and unknown keys are refused, and every
  mistake is reported at once, as `file:line: what is wrong`.
* Durations are written `250ms`, `5s`, `30m`, `24h`, or as a number of seconds. Sizes are written `512B`, `32KiB`,
  `100MiB`, `4GiB`, or as a number of bytes.
* Relative paths are relative to the file.
* A secret may be an environment variable, `${NAME}`, as its whole value. Other keys take no variables.
* A list that says whom or what to accept is never empty: an empty list means none, and none is a mistake there.
"""


def reference() -> str:
    """The page, in Markdown."""
    return "\n".join([_INTRODUCTION, *_section(Config, "")])


def _section(model: type[BaseModel], prefix: str) -> Iterator[str]:
    below: list[tuple[str, type[BaseModel]]] = []
    yield "| key | value | default | |"
    yield "|---|---|---|---|"
    written = docstrings(model)
    row = "| `{}` | {} | {} | {} |".format
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        nested, suffix = _nested(field.annotation)
        if nested is not None:
            below.append((f"{key}{suffix}", nested))
        yield row(key, _kind(field, nested, suffix), _default(field, nested), _prose(written.get(name), nested))
    yield ""
    for key, nested in below:
        yield f"{'###' if prefix else '##'} `{key}`"
        yield ""
        yield _one_line(nested.__doc__)
        yield ""
        yield from _section(nested, f"{key}.")


def _nested(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The model that the field's value is, or holds: with `[]` in a list, with `.<name>` in a mapping."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _nested(arguments[0])
    if origin in (Union, types.UnionType):
        return next((found for found in map(_nested, arguments) if found[0] is not None), (None, ""))
    if origin is tuple:
        return _nested(arguments[0])[0], "[]"
    if origin is dict:
        return _nested(arguments[1])[0], ".<name>"
    return (annotation, "") if isinstance(annotation, type) and issubclass(annotation, BaseModel) else (None, "")


def _marks(annotation: Any, metadata: Any = ()) -> Iterator[Any]:
    yield from metadata
    if get_origin(annotation) is Annotated:
        yield from annotation.__metadata__
        annotation = get_args(annotation)[0]
    for argument in get_args(annotation):
        if argument is not Ellipsis and get_origin(annotation) is not Literal:
            yield from _marks(argument)


def _kind(field: FieldInfo, nested: type[BaseModel] | None, suffix: str) -> str:
    if nested is not None:
        return {"": "mapping", "[]": "list of mappings"}.get(suffix, "mapping of names to mappings")
    for mark in _marks(field.annotation, field.metadata):
        if isinstance(mark, Duration):
            bounds = f"{written_duration(mark.least * 1000)} to {written_duration(mark.most * 1000)}"
            return f"duration, {bounds}{', whole seconds' if mark.whole else ''}"
        if isinstance(mark, Size):
            return f"size, {written_size(mark.least)} to {written_size(mark.most)}"
    return _schema_kind(field)


def _schema_kind(field: FieldInfo) -> str:
    annotation: Any = field.annotation
    for mark in field.metadata:
        annotation = Annotated[annotation, mark]
    types_within = set(_types(annotation))
    if Path in types_within and dict in types_within:
        return "mapping of names to paths"
    if Path in types_within:
        return "list of paths" if tuple in types_within else "path"
    if SecretStr in types_within:
        return "secret, or `${NAME}`"
    schema = TypeAdapter(annotation).json_schema()
    options = [option for option in schema.get("anyOf", [schema]) if option != {"type": "null"}]
    return " or ".join(_option(option) for option in options)


def _types(annotation: Any) -> Iterator[Any]:
    yield get_origin(annotation) or annotation
    for argument in get_args(annotation):
        if argument is not Ellipsis and get_origin(annotation) is not Literal:
            yield from _types(argument)


def _option(option: dict[str, Any]) -> str:
    if "const" in option:
        return f"`{_yaml(option['const'])}`"
    if "enum" in option:
        return ", ".join(f"`{_yaml(value)}`" for value in option["enum"])
    if option.get("type") == "array":
        return f"list of {_option(option['items'])}"
    if option.get("type") == "integer":
        return f"number, {option['minimum']} to {option['maximum']}" if "maximum" in option else "number"
    if option.get("type") == "number":
        above = "exclusiveMinimum" in option
        least = f"above {option['exclusiveMinimum']:g}, to" if above else f", {option['minimum']:g} to"
        return f"number{' ' if above else ''}{least} {option['maximum']:g}"
    return {"string": "text", "boolean": "`true` or `false`"}.get(str(option.get("type")), "anything")


def _default(field: FieldInfo, nested: type[BaseModel] | None) -> str:
    if field.is_required():
        return "**required**"
    if nested is not None or field.default is None:
        return ""
    for mark in _marks(field.annotation, field.metadata):
        if isinstance(mark, Duration):
            return f"`{written_duration(field.default * 1000)}`"
        if isinstance(mark, Size):
            return f"`{written_size(field.default)}`"
    return f"`{_yaml(field.default)}`"


def _yaml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, Path):
        return f"{value}/"
    return value if isinstance(value, str) else json.dumps(value)


def _prose(written: str | None, nested: type[BaseModel] | None) -> str:
    if written is not None:
        return _one_line(written)
    return _one_line(nested.__doc__) if nested is not None else ""


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
