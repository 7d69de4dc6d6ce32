"""Logging to standard error, as text for people or as JSON lines for programs. Never a token: none is ever logged."""

from __future__ import annotations

import logging
import re
import sys
import threading
from datetime import UTC, datetime
from typing import Final, Literal

import orjson

_log = logging.getLogger("ostiary")

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


_SUPERVISOR: Final = "supervisor"


class TextFormatter(logging.Formatter):
    """One line for each record, whatever its message holds: what a request brings cannot begin a line of its own.

    (uvicorn PYSEC-2020-150.) A traceback follows on lines of its own.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name that logging calls
        return _CONTROL.sub(lambda found: repr(found[0])[1:-1], super().formatMessage(record))


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "logger", "worker", "message"}` and, with a traceback, `exception`; within a trace `trace_id`.

    `worker` is the name of a worker, or `supervisor`.
    """

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "worker": _SUPERVISOR if record.processName == "MainProcess" else record.processName,
            "message": _encodable(record.getMessage()),
        }
        if (trace_id := getattr(record, "trace_id", None)) is not None:
            document["trace_id"] = trace_id
        if record.exc_info:
            document["exception"] = _encodable(self.formatException(record.exc_info))
        return orjson.dumps(document).decode()


def _encodable(text: str) -> str:
    """Names of files can hold halves of surrogate pairs, which no UTF-8 has."""
    return text.encode(errors="backslashreplace").decode()


def configure_logging(*, level: str, form: Literal["text", "json"]) -> None:
    """Set up the root logger of this process. uvicorn's access log stays off: the audit is the record of requests.

    What Python itself would print as text, a warning or the end of a thread by an error, is logged as well.
    """
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter("%(asctime)s %(levelname)-7s %(processName)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    threading.excepthook = _thread_failed
    for noisy in ("httpx", "httpcore", "uvicorn.error", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_value is None or failure.exc_type is SystemExit:
        return
    name = "a thread" if failure.thread is None else failure.thread.name
    found = (failure.exc_type, failure.exc_value, failure.exc_traceback)
    _log.critical("%s ended by an error", name, exc_info=found)
