"""The log: one line for each record in text, one object for each in JSON, whatever is in it."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from ostiary.logs import JsonFormatter, TextFormatter

HOSTILE = "asked for /\r\n2026 INFO root: all is well\x1b[2J\u2028\udcff"


def record(message: str, *arguments: Any) -> logging.LogRecord:
    try:
        int("no")
    except ValueError:
        found = logging.LogRecord("ostiary.x", logging.WARNING, "x.py", 1, message, arguments, sys.exc_info())
    found.created, found.processName = 1_790_000_000.25, "w0"
    return found


def test_what_a_request_brings_begins_no_line_of_its_own() -> None:
    text = TextFormatter("%(levelname)s %(processName)s %(name)s: %(message)s").format(record("%s", HOSTILE))
    first, *traceback = text.split("\n")
    assert first == ("WARNING w0 ostiary.x: asked for /\\r\\n2026 INFO root: all is well\\x1b[2J\\u2028\\udcff")
    assert traceback[0] == "Traceback (most recent call last):"
    assert traceback[-1] == "ValueError: invalid literal for int() with base 10: 'no'"


def test_a_json_line_holds_any_message() -> None:
    line = JsonFormatter().format(record("%s", HOSTILE))
    assert "\n" not in line
    document = json.loads(line)
    assert document.pop("exception").endswith("with base 10: 'no'")
    assert document == {
        "time": "2026-09-21T14:13:20.250+00:00",
        "level": "warning",
        "logger": "ostiary.x",
        "worker": "w0",
        "message": "asked for /\r\n2026 INFO root: all is well\x1b[2J\u2028\\udcff",
    }
