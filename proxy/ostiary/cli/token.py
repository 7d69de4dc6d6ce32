"""`ostiary token`: tokens of the demo's own issuer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ostiary.cli.output import fail
from ostiary.demo.issuer import IDENTITIES, KEY_FILE, DemoIssuer
from ostiary.demo.place import latest_demo


def command(
    subject: Annotated[str, typer.Argument(help=f"Who it is for. Known to the issuer: {', '.join(IDENTITIES)}.")],
    directory: Annotated[
        Path | None, typer.Option("--dir", help="The demo's directory; the latest demo's if left out.")
    ] = None,
    lifetime: Annotated[int, typer.Option(min=1, max=3600, help="In seconds.")] = 3600,
) -> None:
    """Print a token of the demo's issuer. It is for the demo only: a real issuer is not ostiary's business."""
    place = directory or latest_demo()
    if place is None or not (place / KEY_FILE).is_file():
        fail("no demo has run here: start one with 'ostiary demo', or name its directory with --dir")
    typer.echo(DemoIssuer(place).token(subject, lifetime=lifetime))
