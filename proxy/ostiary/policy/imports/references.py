"""`$ref` within one document."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import unquote

_MOST: Final = 16
"""References that lead to references, before they are taken for a circle."""
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)


class Unresolved(Exception):
    """A reference that leads nowhere in this document. The message says which."""


class Pointers:
    """The references of a document (RFC 6901 fragments). No other document is opened for one."""

    def __init__(self, document: Any) -> None:
        self._document = document

    def resolved(self, value: Any) -> Any:
        """The value, or what it refers to. Raises `Unresolved`."""
        for _ in range(_MOST):
            if not isinstance(value, dict) or "$ref" not in value:
                return value
            value = self._target(value["$ref"])
        raise Unresolved("its references lead in a circle")

    def _target(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise Unresolved(f"{reference!r} is in another document: put it into this one")
        found = self._document
        for step in unquote(reference[1:]).split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and _INDEX.fullmatch(key) and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, dict) and key in found:
                found = found[key]
            else:
                raise Unresolved(f"{reference!r} is not in this document")
        return found
