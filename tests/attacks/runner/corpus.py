"""Cases as they are written, and the errors of those that cannot be understood."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

GENERATOR: Final = "generator:"

EXPECTATIONS: Final = ("reject-4xx", "deny-403", "not-forwarded", "forwarded-normalised", "connection-closed")
"""SECURITY.md says what each one means; `verdicts` demands it."""

_FIELDS: Final = frozenset({"id", "class", "description", "raw_request", "expected", "rationale", "source"})
_BEYOND: Final = re.compile(r"[^\x00-\xff]+")
_PLACEHOLDER: Final = re.compile(r"\{([A-Z][A-Z0-9_]*)\}")


class CorpusError(Exception):
    """The file is no corpus."""


class Unintelligible(Exception):
    """A case that this runner does not understand. It is an error, never a skip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    id: str
    kind: str
    """Its class: `framing.smuggling`."""
    description: str
    raw_request: str
    expected: str
    rationale: str
    source: str

    @property
    def family(self) -> str:
        return self.kind.partition(".")[0]

    @property
    def is_control(self) -> bool:
        return self.family == "control"

    @property
    def generated(self) -> dict[str, Any] | None:
        """What the generator is told, or None for a case that is one exact message. Raises `Unintelligible`."""
        if not self.raw_request.startswith(GENERATOR):
            return None
        try:
            told = json.loads(self.raw_request.removeprefix(GENERATOR))
        except ValueError as error:
            raise Unintelligible(f"what follows {GENERATOR!r} is not JSON: {error}") from None
        if not isinstance(told, dict):
            raise Unintelligible(f"what follows {GENERATOR!r} is not an object")
        return told


def load(*files: Path) -> list[Case]:
    """The cases of these files, the controls first. Raises `CorpusError`."""
    cases: dict[str, Case] = {}
    for file in files:
        for case in _cases(file):
            if case.id in cases:
                raise CorpusError(f"{file}: {case.id} is there twice")
            cases[case.id] = case
    return sorted(cases.values(), key=lambda case: not case.is_control)


def _cases(file: Path) -> Iterable[Case]:
    try:
        documents = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorpusError(f"{file}: {error}") from error
    if not isinstance(documents, list):
        raise CorpusError(f"{file}: a corpus is a list of cases")
    for number, document in enumerate(documents):
        if not isinstance(document, dict) or document.keys() != _FIELDS:
            raise CorpusError(f"{file}: case {number} does not have the members {', '.join(sorted(_FIELDS))}")
        if not all(isinstance(value, str) for value in document.values()):
            raise CorpusError(f"{file}: case {number} has a member that is no text")
        if document["expected"] not in EXPECTATIONS:
            raise CorpusError(f"{file}: {document['id']} expects {document['expected']!r}, which nobody can judge")
        yield Case(kind=document.pop("class"), **document)


def unescaped(text: str) -> bytes:
    """The bytes of a text that is written with escapes, as SECURITY.md says."""
    try:
        return encoded(text.encode("ascii").decode("unicode_escape"))
    except UnicodeError as error:
        raise Unintelligible(f"it is not the escaped text of bytes: {error}") from None


def plain(text: str) -> bytes:
    """The bytes of a text in a generator's JSON, which may be escaped once more than JSON has it."""
    return unescaped(text) if re.search(r"\\[rnx0]", text) and text.isascii() else encoded(text)


def encoded(text: str) -> bytes:
    """A byte for each character up to U+00FF, and for those beyond their UTF-8, as a client would send them."""
    return _BEYOND.sub(lambda one: one[0].encode("utf-8", "surrogatepass").decode("latin-1"), text).encode("latin-1")


def filled(raw: bytes, **values: str) -> bytes:
    """`{TOKEN}` and its like replaced. Raises `Unintelligible` for one that has no value here."""
    text = raw.decode("latin-1")
    for name in set(_PLACEHOLDER.findall(text)):
        if name not in values:
            raise Unintelligible(f"there is no {{{name}}} in this case")
        text = text.replace(f"{{{name}}}", values[name])
    return encoded(text)


class Spec:
    """What a generator is told. Every member has to be taken: one that nobody understands is an error."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._left = dict(told)

    def take(self, *names: str, default: Any = None) -> Any:
        """The first of these members that is there."""
        for name in names:
            if name in self._left:
                return self._left.pop(name)
        return default

    def need(self, *names: str) -> Any:
        found = self.take(*names)
        if found is None:
            raise Unintelligible(f"there is no {names[0]!r}")
        return found

    def has(self, name: str) -> bool:
        return name in self._left

    @property
    def names(self) -> list[str]:
        return list(self._left)

    def rest(self) -> dict[str, Any]:
        """All that is left, taken."""
        left, self._left = self._left, {}
        return left

    def done(self) -> None:
        if self._left:
            raise Unintelligible(f"{', '.join(map(repr, self._left))}: nobody knows what that means")
