"""What every command shares: consoles, and mistakes shown as lines instead of tracebacks."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, Final, NoReturn

import orjson
import typer
from rich.console import Console

from ostiary.errors import ConfigurationError

MISTAKE: Final = 2
"""The exit status for something that people wrote."""


_UNBOUNDED: Final = 500
"""Columns where nobody watches: a table is then not folded, so that a program can read it line by line."""


def console() -> Console:
    """For people. Plain text where nobody watches; markup is off, since what is printed may hold brackets."""
    return Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else _UNBOUNDED)


def print_json(document: Any) -> None:
    """For programs: one document on standard output."""
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


def fail(*lines: str, status: int = MISTAKE) -> NoReturn:
    for line in lines:
        typer.echo(line, err=True)
    raise typer.Exit(status)


@contextlib.contextmanager
def reporting_mistakes() -> Iterator[None]:
    """Show the mistakes of a file as its lines say them, all of them, and exit with status 2."""
    try:
        yield
    except ConfigurationError as error:
        for line in error.mistakes:
            typer.echo(line, err=True)
        sys.exit(MISTAKE)
