"""`ostiary opa install`"""

from __future__ import annotations

from typing import Annotated

import typer

from ostiary.cli.output import fail
from ostiary.opa.install import OpaNotFound, ensure_opa

app = typer.Typer(help="Open Policy Agent, the engine that decides.", no_args_is_help=True)


@app.callback()
def _opa() -> None:
    """Open Policy Agent, the engine that decides."""


@app.command("install")
def install(
    checksum: Annotated[
        str | None, typer.Option(help="The SHA-256 that a downloaded OPA must also have, in hexadecimal.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the path alone.")] = False,
) -> None:
    """Find or get OPA and print its path: on PATH, from the release page, or built with Go."""
    try:
        path = ensure_opa(checksum=checksum, progress=_silent if quiet else _tell)
    except OpaNotFound as error:
        fail(str(error), status=1)
    typer.echo(str(path))


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def _silent(line: str) -> None:
    """What takes long is not told."""
