"""`ostiary bundle build`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ostiary import assets
from ostiary.cli.output import print_json
from ostiary.opa.install import ensure_opa
from ostiary.policy.bundle import build_bundle

app = typer.Typer(help="Policy bundles: what OPA loads.", no_args_is_help=True)


@app.callback()
def _bundle() -> None:
    """Policy bundles: what OPA loads."""


@app.command("build")
def build(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="The directory with permissions.yaml and *.rego.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="The bundle directory to write.")],
    sequence: Annotated[
        int | None, typer.Option(min=0, help="The revision's sequence; the commit count if left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Compile DIR into the bundle directory OUT, which OPA and `opa test` load as it is."""
    built = build_bundle(source, output, opa=ensure_opa(), sequence=sequence, rego_root=assets.rego())
    for warning in built.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if as_json:
        print_json({"path": str(built.path), "revision": built.revision, "warnings": list(built.warnings)})
        return
    typer.echo(f"{built.path}: revision {built.revision}")
