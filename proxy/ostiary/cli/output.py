"""What every command shares: tables, JSON, and mistakes shown as lines instead of tracebacks.

Answers go to standard output; mistakes, warnings and notes to standard error. Rich is imported when a table is printed
for a person, not before: most commands print none.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

import typer

from ostiary.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console

MISTAKE: Final = 2
"""The exit status for something that people wrote."""

_UNBOUNDED: Final = 500
"""Columns where nobody watches."""


def watched() -> bool:
    """Whether a person reads what is printed, so that it should fit their window. A closed output is None here."""
    return sys.stdout is not None and sys.stdout.isatty()


def width() -> int:
    """The columns of the window."""
    return shutil.get_terminal_size().columns


def console() -> Console:
    """For people. Nothing that is printed is markup: names and conditions may hold brackets and colons."""
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, width=None if watched() else _UNBOUNDED)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Folded to the window for a person; where nobody watches, one line a row, so that `grep` and `cut` can read it."""
    if watched():
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*row)
        console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        typer.echo("  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip())


def visible(text: str) -> str:
    """Text that others wrote, in one line that no terminal obeys."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def print_lines(lines: Sequence[str], *, hang: int) -> None:
    """Wrapped at the window for a person, with `hang` columns before what goes on; else as they are."""
    for line in lines:
        if watched():
            columns = max(width(), hang + 20)
            typer.echo(textwrap.fill(line, columns, subsequent_indent=" " * hang, break_on_hyphens=False))
        else:
            typer.echo(line)


def print_json(document: Any) -> None:
    """For programs: one document on standard output."""
    typer.echo(_printable(json.dumps(document, indent=2)))


def json_line(document: Any) -> str:
    """For programs: a document in one line."""
    return _printable(json.dumps(document, separators=(",", ":")))


def _printable(text: str) -> str:
    """JSON of a stranger's text is shown to people, too, and a terminal obeys some characters. The others are ASCII."""
    return text.replace("\x7f", "\\u007f")


def note(line: str) -> None:
    """For people, beside the answer and not in it."""
    typer.echo(line, err=True)


def fail(*lines: str, status: int = MISTAKE) -> NoReturn:
    for line in lines:
        typer.echo(line, err=True)
    raise typer.Exit(status)


@contextlib.contextmanager
def reporting_mistakes() -> Iterator[None]:
    """Show the mistakes of a file as its lines say them, all of them, and exit with status 2.

    So do files and directories that are not there, or may not be read or written.
    """
    try:
        yield
    except ConfigurationError as error:
        for line in error.mistakes:
            typer.echo(line, err=True)
    except BrokenPipeError:
        raise  # whoever read the output has gone
    except OSError as error:
        what = error.strerror or str(error)
        typer.echo(what if error.filename is None else f"{error.filename}: {what}", err=True)
    else:
        return
    sys.exit(MISTAKE)
