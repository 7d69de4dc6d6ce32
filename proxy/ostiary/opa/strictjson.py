"""JSON from another program, read as RFC 8259 means it and no more loosely."""

from __future__ import annotations

import json
from typing import Final

import orjson

from ostiary.models import Json


def loads(text: bytes) -> Json:
    """Parse a document; raises `ValueError` for anything that two readers could understand differently.

    That is: an object with a duplicate key (RFC 8259 section 4: behaviour is unpredictable), NaN and infinities,
    invalid UTF-8, lone surrogates, and nesting that exhausts the stack.
    """
    orjson.loads(text)  # strict about everything but duplicate keys, and fast
    try:
        return _DECODER.decode(text.decode())
    except RecursionError as error:
        raise ValueError("the document is nested too deeply") from error


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has a key twice")
    return found


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object)
