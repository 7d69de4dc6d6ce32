"""OPA's log, line by line, into Python's."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Final

from ostiary.models import Json
from ostiary.strictjson import NotStrict, read_object

_log = logging.getLogger("ostiary.opa")

_LINE_LIMIT: Final = 16 * 1024  # bytes; the rest of a longer line is dropped
_SHOWN: Final = 1000  # characters of a message
_TAIL: Final = 20  # warnings and errors kept for what is said of an OPA that ended
_PIECE: Final = 64 * 1024

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "panic": logging.CRITICAL,
}
_FIELDS: Final = ("name", "plugin", "err", "error")
"""The members of a line that are passed on with its message. No others: a request's line holds its body."""


class LogFolder:
    """Reads what OPA writes until it ends. `tail` is its last warnings and errors, for people who ask why it ended."""

    def __init__(self) -> None:
        self.tail: deque[str] = deque(maxlen=_TAIL)

    async def fold(self, stream: asyncio.StreamReader) -> None:
        """Log every line of the stream at its level. Never fails on what a line holds."""
        rest = bytearray()
        while piece := await stream.read(_PIECE):
            *lines, last = piece.split(b"\n")
            for line in lines:
                rest += line
                self._line(bytes(rest[:_LINE_LIMIT]))
                rest.clear()
            rest += last[: max(_LINE_LIMIT - len(rest), 0)]
        if rest:
            self._line(bytes(rest))

    def _line(self, line: bytes) -> None:
        if not line.strip():
            return
        level, text = _read(line)
        if text is None:
            return
        if level >= logging.WARNING:
            self.tail.append(text)
        _log.log(level, "%s", text)


def _read(line: bytes) -> tuple[int, str | None]:
    try:
        document = read_object(line)
    except NotStrict:
        return logging.WARNING, _printable(line.decode("utf-8", "replace"))
    level = _LEVELS.get(_text(document.get("level")), logging.WARNING)
    if "line" in document and "msg" in document:
        return level, None  # a `print` in Rego: it may show the input, and that is not for a log
    words = [_text(document.get("msg"))]
    words += [f"{name}={_text(document[name])}" for name in _FIELDS if name in document]
    return level, _printable(" ".join(words))


def _text(value: Json) -> str:
    return value if isinstance(value, str) else repr(value)


def _printable(text: str) -> str:
    """One line of printable characters: a message must not be able to forge another line (PYSEC-2020-150)."""
    return "".join(character if character.isprintable() else " " for character in text[:_SHOWN])
