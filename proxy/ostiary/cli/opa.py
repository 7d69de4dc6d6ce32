"""`ostiary opa install`"""

from __future__ import annotations

import re
from typing import Annotated, Final

import typer

from ostiary.cli.lazy import Group
from ostiary.cli.output import fail, note
from ostiary.opa.install import OpaNotFound, ensure_opa

_CHECKSUM: Final = re.compile("[0-9A-Fa-f]{64}")

app = typer.Typer(cls=Group, help="Open Policy Agent, the engine that decides.", no_args_is_help=True)


@app.callback()
def _opa() -> None:
    """Open Policy Agent, the engine that decides."""


@app.command("install")
def install(
    checksum: Annotated[
        str | None, typer.Option(help="The SHA-256 that OPA must have, in hexadecimal, wherever it is from.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the path alone.")] = False,
) -> None:
    """Find or get OPA and print its path: on PATH, from the release page, or built with Go.

    Exit status 0: it is there. 1: there is none, and none could be got.
    """
    if checksum is not None and not _CHECKSUM.fullmatch(checksum):
        fail(f"{checksum!r} is not a SHA-256, which is 64 hexadecimal digits")
    try:
        path = ensure_opa(checksum=checksum, progress=_silent if quiet else note)
    except OpaNotFound as error:
        fail(str(error), status=1)
    typer.echo(str(path))


def _silent(line: str) -> None:
    """What takes long is not told."""
