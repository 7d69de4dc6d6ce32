"""`ostiary version`"""

from __future__ import annotations

import platform
from importlib.metadata import version as installed
from typing import Annotated, Final

import typer

from ostiary import __version__
from ostiary.cli.output import print_json
from ostiary.opa.install import FLOOR, PINNED

_PARTS: Final = (
    "starlette",
    "uvicorn",
    "httptools",
    "httpx",
    "opa-python-client",
    "PyJWT",
    "cryptography",
    "orjson",
    "pydantic",
)


def command(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Print the versions of ostiary and of what decides and parses for it."""
    if as_json:
        print_json(
            {
                "ostiary": __version__,
                "python": platform.python_version(),
                "opa": {"pinned": PINNED, "least": FLOOR},
                "packages": {name: installed(name) for name in _PARTS},
            }
        )
        return
    typer.echo(
        f"ostiary {__version__} (Python {platform.python_version()}; an OPA of at least {FLOOR}, or {PINNED} is got)"
    )
