"""`ostiary token`: tokens of the demo's own issuer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ostiary.cli.output import fail, note
from ostiary.demo.issuer import IDENTITIES, KEY_FILE, DemoIssuer
from ostiary.demo.place import latest_demo


def command(
    subject: Annotated[str, typer.Argument(help=f"Who it is for. Known to the issuer: {', '.join(IDENTITIES)}.")],
    directory: Annotated[
        Path | None, typer.Option("--dir", help="The demo's directory; that of the demo that runs if left out.")
    ] = None,
    lifetime: Annotated[int, typer.Option(min=1, max=3600, help="In seconds.")] = 3600,
) -> None:
    """Print a token of the demo's issuer. It is for the demo only: a real issuer is not ostiary's business."""
    if not subject or not subject.isascii() or not subject.isprintable():
        fail(f"{subject!r} is not a subject, which is printable ASCII")
    place = directory or latest_demo()
    if place is None:
        fail("no demo runs here: start one with 'ostiary demo', or name the directory of one with --dir")
    key = place / KEY_FILE
    if not key.is_file():
        fail(f"{place}: no demo has run there: it has no {KEY_FILE}")
    try:
        issuer = DemoIssuer(place)
    except (ValueError, TypeError):  # what a parser says about a private key is not shown
        fail(f"{key}: is not the key of a demo's issuer")
    if subject not in IDENTITIES:
        note(f"the demo's issuer vouches for nothing about {subject!r}; it knows {', '.join(IDENTITIES)}")
    typer.echo(issuer.token(subject, lifetime=lifetime))
