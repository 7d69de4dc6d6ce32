"""YAML 1.2, core schema, with the line of every key and item.

PyYAML reads YAML 1.1, where `no` is false and `08:00` is a number of seconds. Only its parser is used here (libyaml's);
what a plain scalar means is decided below by the core schema's own table (YAML 1.2.2 section 10.3.2). Refused, because
each has been a way to say something else than what a reader sees: duplicate keys, tags, several documents, keys
that are not text, merge keys (`<<` is a key like any other), aliases that multiply, and depth or size without end.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import yaml
from yaml import cyaml

from ostiary.policy.lined import Mapping, Sequence
from ostiary.policy.words import quoted

MAX_DEPTH: Final = 32
MAX_VALUES: Final = 5_000_000
MAX_ALIASED_VALUES: Final = 100_000
"""How many values aliases may stand for, all together: enough to share conditions, too few for a billion laughs."""

_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT: Final = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.nan|\.NaN|\.NAN")
_NUMERIC: Final = frozenset("0123456789+-.")
_BASES: Final = {"0o": 8, "0x": 16}
_LONGEST_INTEGER: Final = 40  # characters; the cost of a conversion grows with their square
_BREAK: Final = re.compile("\r\n|\r|\n")
_FOREIGN_BREAKS: Final = re.compile("[\x85\u2028\u2029]")  # line breaks in YAML 1.1, text in 1.2


class Unreadable(Exception):
    """Nothing can be made of the text. `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def parse(text: str, *, any_key: bool = False) -> tuple[Any, list[tuple[int, str]]]:
    """The value, and the mistakes (line, sentence) that leave the rest readable. Raises `Unreadable`.

    With `any_key` a key that is not a text (`200:`) is read as the text that it is written with.
    """
    foreign = _FOREIGN_BREAKS.search(text)
    if foreign:
        line = text.count("\n", 0, foreign.start()) + 1
        raise Unreadable(line, f"the character U+{ord(foreign[0]):04X} is accepted only as an escape")
    builder = _Builder(any_key=any_key)
    try:
        builder.read(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if mark and _indented_with_tab(text, mark.line, mark.column):
            raise Unreadable(mark.line + 1, "a tab cannot indent: use spaces") from error
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise Unreadable(mark.line + 1 if mark else 1, f"not YAML: {problem}") from error
    except yaml.reader.ReaderError as error:
        raise Unreadable(_line_of(text, error.position), f"not YAML: {error.reason}") from error
    return builder.value, builder.mistakes


def _indented_with_tab(text: str, line: int, column: int) -> bool:
    """Whether what the parser stumbled over is a tab with nothing but spaces before it. Both count from 0."""
    lines = _BREAK.split(text, line + 1)
    return line < len(lines) and lines[line].startswith(" " * column + "\t")


def _line_of(text: str, position: int | None) -> int:
    # libyaml counts the bytes of the UTF-8 that it was given.
    return text.encode()[: position or 0].count(b"\n") + 1


_NO_KEY: Final = object()


class _Open:
    """A mapping or a list being read. `skip`: the value to come belongs to a key that was refused."""

    __slots__ = ("anchor", "before", "key", "mapping", "sequence", "skip")

    def __init__(self, container: Mapping | Sequence, anchor: str | None, before: int) -> None:
        self.mapping = container if isinstance(container, Mapping) else None
        self.sequence = container if isinstance(container, Sequence) else None
        self.anchor = anchor
        self.before = before  # how many values there were when it began
        self.key: Any = _NO_KEY
        self.skip = False


@dataclass(frozen=True, slots=True)
class _Anchored:
    value: Any
    size: int


class _Builder:
    """Builds the value from the parser's events: without recursion, so that depth costs no stack."""

    def __init__(self, *, any_key: bool) -> None:
        self.value: Any = None
        self.mistakes: list[tuple[int, str]] = []
        self._any_key = any_key
        self._stack: list[_Open] = []
        self._anchors: dict[str, _Anchored] = {}
        self._values = 0
        self._aliased = 0
        self._documents = 0

    def read(self, text: str) -> None:
        next_event: Callable[[], Any] = cyaml.CParser(text).get_event  # type: ignore[attr-defined] # the stubs leave it out
        handlers = {
            yaml.ScalarEvent: self._scalar,
            yaml.MappingStartEvent: self._begin_mapping,
            yaml.SequenceStartEvent: self._begin_sequence,
            yaml.MappingEndEvent: self._end,
            yaml.SequenceEndEvent: self._end,
            yaml.AliasEvent: self._alias,
            yaml.DocumentStartEvent: self._begin_document,
        }
        while (event := next_event()) is not None:
            handler = handlers.get(type(event))
            if handler is not None:
                handler(event, event.start_mark.line + 1)

    def _begin_document(self, event: Any, line: int) -> None:
        self._documents += 1
        if self._documents > 1:
            raise Unreadable(line, "a second document: a file holds one")
        if event.version is not None and tuple(event.version) != (1, 2):
            raise Unreadable(line, "files are read as YAML 1.2, and this one says that it is something else")

    def _scalar(self, event: Any, line: int) -> None:
        text = event.value
        value: Any = text
        if event.tag is not None:
            self._refuse_tag(event.tag, line)
        elif event.implicit[0]:  # plain, not quoted
            value = self._resolve(text, line)
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchored(value, 1)
        if self._key_is_next():
            self._key(value, text, line)
        else:
            self._put(value, line)

    def _resolve(self, text: str, line: int) -> Any:
        if text in _NULL:
            return None
        if text in _BOOL:
            return _BOOL[text]
        if text[0] not in _NUMERIC:
            return text
        if _INT.fullmatch(text):
            if len(text) > _LONGEST_INTEGER:
                self.mistakes.append((line, f"the number {quoted(text)} is too long"))
                return 0
            return int(text, _BASES.get(text[:2], 10))
        if _FLOAT.fullmatch(text):
            return float(text)
        if _NOT_FINITE.fullmatch(text):
            return float(text.lower().replace(".", "", 1))
        return text

    def _key_is_next(self) -> bool:
        if not self._stack:
            return False
        top = self._stack[-1]
        return top.key is _NO_KEY and top.mapping is not None

    def _key(self, key: Any, text: str, line: int) -> None:
        top = self._stack[-1]
        lines = {} if top.mapping is None else top.mapping.lines
        if not isinstance(key, str) and not self._any_key:
            self.mistakes.append((line, f"the key {quoted(text)} is not a text: put it in quotes"))
        if text in lines:
            self.mistakes.append((line, f"the key {quoted(text)} is there twice, first on line {lines[text]}"))
            top.skip = True
        top.key = text
        lines.setdefault(text, line)

    def _put(self, value: Any, line: int) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise Unreadable(line, f"the file holds more than {MAX_VALUES} values")
        if not self._stack:
            self.value = value
            return
        top = self._stack[-1]
        if top.mapping is not None:
            if not top.skip:
                top.mapping[top.key] = value
            top.skip = False
            top.key = _NO_KEY
        elif top.sequence is not None:
            top.sequence.indices.append(len(top.sequence))
            top.sequence.append(value)
            top.sequence.lines.append(line)

    def _begin_mapping(self, event: Any, line: int) -> None:
        self._begin(Mapping(), event, line)

    def _begin_sequence(self, event: Any, line: int) -> None:
        self._begin(Sequence(), event, line)

    def _begin(self, container: Mapping | Sequence, event: Any, line: int) -> None:
        if len(self._stack) >= MAX_DEPTH:
            raise Unreadable(line, f"values are nested more than {MAX_DEPTH} deep")
        if event.tag is not None:
            self._refuse_tag(event.tag, line)
        if self._key_is_next():
            raise Unreadable(line, "a key is a mapping or a list; keys are texts")
        if event.anchor is not None:
            self._anchors.pop(event.anchor, None)  # until it is complete, an alias of it would hold itself
        before = self._values
        self._put(container, line)
        self._stack.append(_Open(container, event.anchor, before))

    def _end(self, event: Any, line: int) -> None:
        closed = self._stack.pop()
        if closed.anchor is not None:
            self._anchors[closed.anchor] = _Anchored(
                closed.mapping if closed.sequence is None else closed.sequence, self._values - closed.before
            )

    def _alias(self, event: Any, line: int) -> None:
        anchored = self._anchors.get(event.anchor)
        if anchored is None:
            raise Unreadable(line, f"the alias {quoted(event.anchor)} stands for nothing that is complete before it")
        self._aliased += anchored.size
        if self._aliased > MAX_ALIASED_VALUES:
            raise Unreadable(line, f"aliases stand for more than {MAX_ALIASED_VALUES} values")
        if self._key_is_next():
            self._key(anchored.value, str(anchored.value), line)
            return
        self._values += anchored.size - 1
        self._put(anchored.value, line)

    def _refuse_tag(self, tag: str, line: int) -> None:
        self.mistakes.append(
            (line, f"the tag {quoted(tag)} is refused: what a value is, is seen from how it is written")
        )
