"""Logging to standard error, as text for people or as JSON lines for programs. Never a token: none is ever logged."""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Final, Literal

import orjson

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class TextFormatter(logging.Formatter):
    """One line for each record, whatever its message holds: what a request brings cannot begin a line of its own.

    (uvicorn PYSEC-2020-150.) A traceback follows on lines of its own.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name that logging calls
        return _CONTROL.sub(lambda found: repr(found[0])[1:-1], super().formatMessage(record))


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "logger", "process", "message"}` and, with a traceback, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.processName,
            "message": _encodable(record.getMessage()),
        }
        if record.exc_info:
            document["exception"] = _encodable(self.formatException(record.exc_info))
        return orjson.dumps(document).decode()


def _encodable(text: str) -> str:
    """Names of files can hold halves of surrogate pairs, which no UTF-8 has."""
    return text.encode(errors="backslashreplace").decode()


def configure_logging(*, level: str, form: Literal["text", "json"]) -> None:
    """Set up the root logger of this process. uvicorn's access log stays off: the audit is the record of requests."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter("%(asctime)s %(levelname)-7s %(processName)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "uvicorn.error", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
