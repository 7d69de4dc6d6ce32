"""Which type of variable (DESIGN section 5) takes the values that a path parameter's schema describes.

The narrowest that does: an integer is `int`, a UUID is `uuid`. Of texts, those that a schema names (`enum`, `const`,
`default`, examples) have to match, and the format says what others look like. Where nothing is said, a text is a
`name`: letters, digits, `_` and `-`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ostiary.policy.imports.references import Pointers
from ostiary.routes import matches

_FORMATS: Final = {
    "uuid": "uuid",
    "ipv4": "file",
    "hostname": "file",
    "idn-hostname": "text",
    "date-time": "text",
    "time": "text",
    "email": "text",
    "idn-email": "text",
    "ipv6": "text",
    "byte": "text",
    "iri": None,
    "iri-reference": None,
    "uri": None,
    "uri-reference": None,
    "uri-template": None,
    "json-pointer": None,
}
"""Format to type, None where values have slashes. Other formats are read as texts without one."""

_TYPES: Final = {"integer": "int", "number": "file", "string": "name", "boolean": "name", "array": "text"}
_WIDER: Final = ("name", "file", "text")
_STYLES: Final = ("simple", None)


class NoType(Exception):
    """No variable takes these values. The message says why."""


def variable_type(parameter: Any, pointers: Pointers) -> str:
    """The type of the variable for a path parameter (None where the document describes none). Raises `NoType`."""
    if not isinstance(parameter, dict):
        return "name"
    if parameter.get("style") not in _STYLES:
        raise NoType(f"the style {parameter['style']!r} puts more than the value into the path")
    schemas = list(_schemas(_schema(parameter), pointers))
    kind = _described(schemas)
    return _taking(kind, [*_examples(parameter), *(value for schema in schemas for value in _values(schema))])


def _schema(parameter: dict[str, Any]) -> Any:
    content = parameter.get("content")
    if isinstance(content, dict):
        media = next(iter(content.values()), None)
        return media.get("schema") if isinstance(media, dict) else None
    return parameter.get("schema")


def _schemas(schema: Any, pointers: Pointers) -> Iterator[dict[str, Any]]:
    """The schema and those that it is composed of, resolved: each once, however often one refers to another."""
    seen: set[int] = set()
    waiting = [schema]
    while waiting:
        found = pointers.resolved(waiting.pop())
        if not isinstance(found, dict) or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        for key in ("anyOf", "oneOf", "allOf"):
            parts = found.get(key)
            waiting.extend(reversed(parts) if isinstance(parts, list) else ())


def _described(schemas: list[dict[str, Any]]) -> str:
    """The type that all of them together say; several are alternatives, which only a wider one takes."""
    kinds = {kind for schema in schemas if (kind := _one(schema)) is not None}
    if len(kinds) <= 1:
        return next(iter(kinds), "name")
    return next((wide for wide in reversed(_WIDER) if wide in kinds), "name")


def _one(schema: dict[str, Any]) -> str | None:
    said = schema.get("type")
    kinds = [kind for kind in (said if isinstance(said, list) else [said]) if kind != "null"]
    if len(kinds) > 1:
        return "text"
    form = schema.get("format")
    if kinds in (["string"], [None]) and form in _FORMATS:
        found = _FORMATS[form]
        if found is None:
            raise NoType(f"values of the format {form!r} have slashes, and a variable is one segment")
        return found
    if kinds == ["object"]:
        raise NoType("an object is no segment of a path")
    return None if kinds == [None] or not kinds else _TYPES.get(str(kinds[0]), "text")


def _examples(parameter: dict[str, Any]) -> Iterator[Any]:
    if "example" in parameter:
        yield parameter["example"]
    named = parameter.get("examples")
    for one in named.values() if isinstance(named, dict) else ():
        if isinstance(one, dict) and "value" in one:
            yield one["value"]


def _values(schema: dict[str, Any]) -> Iterator[Any]:
    for key in ("enum", "examples"):
        listed = schema.get(key)
        yield from listed if isinstance(listed, list) else ()
    yield from (schema[key] for key in ("const", "default", "example") if key in schema)


def _taking(kind: str, values: list[Any]) -> str:
    """The type, or the next wider one of texts that takes these values, too."""
    known = [str(value) for value in values if isinstance(value, str | int) and not isinstance(value, bool)]
    wider = _WIDER[_WIDER.index(kind) :] if kind in _WIDER else (kind,)
    for each in wider:
        if all(matches(each, value) for value in known):
            return each
    value = next(value for value in known if not matches(wider[-1], value))
    raise NoType(f"no variable of type {wider[-1]!r} takes {value!r}, which the document names as a value")
