"""Names as the permission map writes them, of those that other formats have."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Final

LONGEST: Final = 63
"""Characters of a name in the permission map."""

_HUMPS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_OTHERS: Final = re.compile(r"[^a-z0-9]+")
_LAST_WORDS: Final = re.compile(r"(-(api|apis|rest|service|openapi|specification|spec|v[0-9]+))+$")
_NOT_IN_A_VARIABLE: Final = re.compile(r"[^A-Za-z0-9_]+")


def kebab(text: str) -> str:
    """`getOrderById`, `get_order_by_id` and `Get order by ID` are `get-order-by-id`. Empty where nothing is left."""
    return _cut(_OTHERS.sub("-", _HUMPS.sub("-", text).lower()))


def service_name(title: str) -> str:
    """The service of a document with this title: `Orders API` is `orders`."""
    name = kebab(title)
    return _LAST_WORDS.sub("", name) or name


def endpoint_name(operation: object, method: str, path: str) -> str:
    """That of the operation's id; without one that can be used, of its method and path."""
    name = kebab(operation) if isinstance(operation, str) else ""
    return name or kebab(f"{method} {path}")


def variable_name(text: str) -> str:
    """A name that a path template takes: `order-id` is `order_id`."""
    name = _NOT_IN_A_VARIABLE.sub("_", text)[:LONGEST]
    return name if name[:1].isalpha() else f"_{name}"


def free(name: str, taken: Container[str]) -> str:
    """The name, with a number behind it if it is taken."""
    found, number = name, 2
    while found in taken:
        end = f"-{number}"
        found, number = name[: LONGEST - len(end)] + end, number + 1
    return found


def _cut(name: str) -> str:
    return name.strip("-")[:LONGEST].rstrip("-")
