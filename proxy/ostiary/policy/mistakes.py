"""From what is wrong with a document to lines that people can act on: `file:line: what, and the nearest right name`.

All mistakes are found in one go. What is broken is reported, then cut out of the document, and the rest is checked
again: a bad network in one permission hides no unknown service in another, nor in the same one.
"""

from __future__ import annotations

import types
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ostiary.errors import ConfigurationError
from ostiary.policy.document import Document, Place
from ostiary.policy.words import Nearest, either, quoted

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True, eq=False)
class StandIn:
    """Annotates a key: what takes its place once it is reported as absent or broken, so that the rest is checked."""

    value: Any


REFERENCE: Final = "reference"
"""The type of a mistake between parts that are well-formed each: found last, and the reason for no other."""

_KEY: Final = "[key]"  # how pydantic marks a mistake in a key instead of its value

_MOST_LISTED: Final = 12  # keys; a longer list helps nobody to find the right one

_SCALARS: Final = {
    "string_type": "is not a text",
    "int_type": "is not a whole number",
    "int_from_float": "is not a whole number",
    "bool_type": "is neither true nor false",
}
_CONTAINERS: Final = {
    "list_type": "is not a list",
    "tuple_type": "is not a list",
    "dict_type": "is not a mapping",
    "model_type": "is not a mapping",
}


class Inspection:
    """Gathers the mistakes of one document."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._nearest = Nearest()
        self._lines = [(line, f"{document.name}:{line}: {sentence}") for line, sentence in document.mistakes]
        self._shadow: set[Place] = set()
        self._gone: set[Place] = set()
        self._misspelt: set[Place] = set()
        self._filled: set[Place] = set()

    def refuse(self, model: type[BaseModel], places: Mapping[Place, str]) -> None:
        """Report these mistakes, and leave out what is there from all that follows."""
        for place, sentence in places.items():
            self._report(place, sentence)
        self._cut([place for place in places if not self._fill(model, place)])

    def validate(self, model: type[M], context: Mapping[str, Any]) -> M:
        """The document as `model`. Raises `ConfigurationError` with every mistake, sorted by line."""
        while True:
            try:
                result = model.model_validate(self._document.value, context=dict(context))
            except ValidationError as error:
                if not self._learn(model, error.errors(include_url=False)):
                    break
            else:
                if not self._lines:
                    return result
                break
        # Without a cause: pydantic's exception knows the values, and a value may be a secret.
        raise ConfigurationError(dict.fromkeys(line for _, line in sorted(self._lines))) from None

    def _learn(self, model: type[BaseModel], entries: list[ErrorDetails]) -> bool:
        """Report what is new, and cut it out. False if nothing is left to be learnt from another look."""
        broken = []
        for entry in entries:
            place = entry["loc"]
            if _KEY in place:
                place = place[: place.index(_KEY)]
            context = entry.get("ctx", {})
            others = (context.get("other"), context.get("because"))
            if not self._follows(place, context.get("lacking")) and not any(map(self._follows, others)):
                self._report(place, self._sentence(model, entry, place))
            if entry["type"] == "extra_forbidden":
                self._misspelt.add(self._document.original(place[:-1]))
            if not self._fill(model, place):
                broken.append(place)
        final = all(entry["type"] == REFERENCE for entry in entries)
        return not final and self._cut(broken)

    def _follows(self, place: Place | None, lacking: Collection[str] | None = None) -> bool:
        """Whether what is wrong there follows from what has been reported, or from a stand-in."""
        if place is None:
            return False
        original = self._document.original(place)
        if self._stands_in(original):
            return True
        if lacking is None:
            return original in self._shadow
        # An unknown key may be one of those, misspelt.
        return bool(lacking) and (original in self._misspelt or any((*original, key) in self._gone for key in lacking))

    def _stands_in(self, original: Place) -> bool:
        return any(original[:length] in self._filled for length in range(len(original)))

    def _fill(self, model: type[BaseModel], place: Place) -> bool:
        """Put a stand-in where a key is missing or broken, so that what is beside it can be checked."""
        original = self._document.original(place)
        stand_in = next((mark for mark in _marks_at(model, place) if isinstance(mark, StandIn)), None)
        if stand_in is None or original in self._filled or self._stands_in(original):
            return False
        self._filled.add(original)
        self._shade(original)
        self._document.put(place, stand_in.value)
        return True

    def _report(self, place: Place, sentence: str) -> None:
        document = self._document
        line, where = document.line(place), document.written(place)
        self._lines.append((line, f"{document.name}:{line}: {where}{': ' if where else ''}{sentence}"))

    def _cut(self, places: Iterable[Place]) -> bool:
        places = list(places)
        for place in places:
            original = self._document.original(place)
            self._gone.add(original)
            self._shade(original)
        return self._document.cut(places)

    def _shade(self, original: Place) -> None:
        # What is above a cut may now be empty or lack something, which nobody wrote.
        self._shadow.update(original[:length] for length in range(len(original) + 1))

    def _sentence(self, model: type[BaseModel], entry: ErrorDetails, place: Place) -> str:
        kind, value, context = entry["type"], entry.get("input"), entry.get("ctx", {})
        if not place and kind in _CONTAINERS:
            return "the file is empty" if value is None else "the file is not a mapping"
        if kind == "missing":
            return "is missing"
        if kind == "extra_forbidden":
            known = keys_at(model, place[:-1])
            hint = self._nearest(str(place[-1]), known)
            return f"unknown key{hint or _listed(known)}"
        if kind == "literal_error":
            choices = _choices(context)
            return f"{quoted(value)} is not {either(choices)}{self._nearest(str(value), choices)}"
        if kind in _CONTAINERS:
            return "has no value" if value is None else _CONTAINERS[kind]
        if kind in _SCALARS:
            hint = ": put it in quotes" if kind == "string_type" and isinstance(value, int | float) else ""
            return "has no value" if value is None else f"{quoted(value)} {_SCALARS[kind]}{hint}"
        if kind == "greater_than_equal":
            return f"{quoted(value)} is less than {context['ge']}"
        if kind == "less_than_equal":
            return f"{quoted(value)} is more than {context['le']}"
        if context.get("other") is not None:
            other = context["other"]
            return f"is the same as {self._document.written(other)}, line {self._document.line(other)}"
        return entry["msg"]


def _listed(keys: Collection[str]) -> str:
    return f" (the keys here: {', '.join(keys)})" if 0 < len(keys) <= _MOST_LISTED else ""


def _choices(context: Mapping[str, Any]) -> list[str]:
    # pydantic gives them as prose: "'text' or 'json'"
    return [part.strip("' ") for part in context["expected"].replace(" or ", ",").split(",")]


def keys_at(model: type[BaseModel], place: Place) -> tuple[str, ...]:
    """The keys that the mapping at `place` may have, or none where any are accepted."""
    found: Any = model
    for step in place:
        found = _below(found, step)
    found = _unwrapped(found)
    return _keys(found) if isinstance(found, type) and issubclass(found, BaseModel) else ()


def _keys(model: type[BaseModel]) -> tuple[str, ...]:
    return tuple(field.alias or name for name, field in model.model_fields.items())


def _marks_at(model: type[BaseModel], place: Place) -> list[Any]:
    if not place:
        return []
    holder: Any = model
    for step in place[:-1]:
        holder = _below(holder, step)
    holder = _unwrapped(holder)
    if not (isinstance(holder, type) and issubclass(holder, BaseModel)):
        return []
    return next(
        (field.metadata for name, field in holder.model_fields.items() if place[-1] == (field.alias or name)), []
    )


def _below(annotation: Any, step: int | str) -> Any:
    annotation = _unwrapped(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            if step == (field.alias or name):
                return field.annotation
        return None
    arguments = get_args(annotation)
    return arguments[1 if get_origin(annotation) is dict else 0] if arguments else None


def _unwrapped(annotation: Any) -> Any:
    """Without `Annotated`, and without the `None` of what is optional."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            annotation = next(part for part in get_args(annotation) if part is not type(None))
        else:
            return annotation
