"""JSON read strictly (RFC 8259, RFC 7493): what two parsers could read differently is refused.

Python's own parser accepts duplicate members (the last wins), `NaN`, numbers that overflow to infinity and lone
surrogates. Each of them is a difference between what was signed, what is judged and what is written down.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, NoReturn

from ostiary.models import Json

_SMALLEST: Final = -(2**63)
_LARGEST: Final = 2**64 - 1


class NotStrict(ValueError):
    """The bytes are not the JSON that is accepted. The message is a fixed text, free of the document's own."""


def read_object(document: bytes, *, max_depth: int = 64) -> dict[str, Json]:
    """The JSON object in these bytes, nested at most `max_depth` deep. Raises `NotStrict`, nothing else."""
    try:
        text = document.decode("utf-8", "strict")
        value = _DECODER.decode(text)
    except NotStrict:
        raise
    except ValueError:
        raise NotStrict("not JSON") from None
    except RecursionError:  # how deep that is depends on the interpreter
        raise NotStrict("nested too deep") from None
    if not isinstance(value, dict):
        raise NotStrict("not a JSON object")
    # Only brackets nest, and of UTF-8 only an escape gives a lone surrogate: most documents need no second look.
    if "\\u" in text or text.count("{") + text.count("[") > max_depth:
        _check(value, max_depth)
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotStrict("a member occurs twice")
    return members


def _integer(text: str) -> int:
    # 20 digits and a sign hold every 64-bit integer; longer ones are not even converted (quadratic time).
    if len(text) > 21:
        raise NotStrict("a number is out of range")
    number = int(text)
    if not _SMALLEST <= number <= _LARGEST:
        raise NotStrict("a number is out of range")
    return number


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise NotStrict("a number is out of range")
    return number


def _constant(_text: str) -> NoReturn:
    raise NotStrict("not JSON")  # NaN, Infinity, -Infinity


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=_integer, parse_float=_float, parse_constant=_constant
)


def _check(value: Json, depth: int) -> None:
    """Refuse what is nested deeper than `depth`, and text that is not Unicode (a lone surrogate)."""
    if isinstance(value, str):
        if not value.isascii() and not _is_unicode(value):
            raise NotStrict("text is not Unicode")
    elif isinstance(value, dict):
        if depth == 0:
            raise NotStrict("nested too deep")
        for name, member in value.items():
            _check(name, depth)
            _check(member, depth - 1)
    elif isinstance(value, list):
        if depth == 0:
            raise NotStrict("nested too deep")
        for element in value:
            _check(element, depth - 1)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
