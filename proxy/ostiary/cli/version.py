"""`ostiary version`"""

from __future__ import annotations

import platform
from importlib.metadata import version as installed
from typing import Annotated

import typer

from ostiary import __version__
from ostiary.cli.output import print_json


def command(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Print the versions of ostiary and of what decides and parses for it."""
    parts = {name: installed(name) for name in ("starlette", "uvicorn", "httptools", "httpx", "PyJWT", "pydantic")}
    if as_json:
        print_json({"ostiary": __version__, "python": platform.python_version(), **parts})
        return
    typer.echo(f"ostiary {__version__} (Python {platform.python_version()})")
